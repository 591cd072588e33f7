"""Colours of figures and pages."""

# Okabe and Ito: told apart by people with any of the common colour vision deficiencies.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
