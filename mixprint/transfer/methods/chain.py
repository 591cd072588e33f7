"""A console, a TCN or both, as an effect.

Shape suffixes: S stem, C channel, T sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mixprint.stems import NUM_STEMS, STEMS
from mixprint.transfer.console import Console, Prepared
from mixprint.transfer.effect import check_amount
from mixprint.transfer.methods.tcn import TCN


class FittedChain(nn.Module):
    """A console, a TCN or both in this order, on the stems that take part."""

    active_S11: Tensor

    def __init__(
        self, console: Console | None, tcn: TCN | None, left_alone: Sequence[str] = ()
    ) -> None:
        """Put the chain together.

        Args:
            console: first in the chain.
            tcn: second.
            left_alone: stems that are passed on to the bit whatever the amount.

        Raises:
            ValueError: there is neither.
        """
        super().__init__()
        if console is None and tcn is None:
            raise ValueError("expected a console, a TCN or both, got neither")
        self.console = console
        self.tcn = tcn
        self.left_alone = tuple(left_alone)
        active_S = torch.tensor([stem not in left_alone for stem in STEMS])
        self.register_buffer("active_S11", active_S.view(-1, 1, 1), persistent=False)

    @property
    def is_active(self) -> bool:
        """Tell whether any stem takes part."""
        return len(self.left_alone) < NUM_STEMS

    @property
    def context_samples(self) -> int:
        """See `mixprint.transfer.effect.Effect`."""
        context = 0 if self.console is None else self.console.context_samples
        return context + (0 if self.tcn is None else self.tcn.context_samples)

    @property
    def hop_samples(self) -> int:
        """See `mixprint.transfer.effect.Effect`."""
        return 1 if self.console is None else self.console.hop_samples

    def prepare(self, stems_SCT: Tensor) -> Tensor | Prepared:
        """Compute once what every step of an optimisation reuses."""
        return stems_SCT if self.console is None else self.console.prepare(stems_SCT)

    def render(
        self, prepared: Tensor | Prepared, amount_S: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Process what was prepared.

        Args:
            prepared: by `prepare`.
            amount_S: see `mixprint.transfer.effect`; 1 when None.

        Returns:
            the stems, and the stems before the TCN.
        """
        if isinstance(prepared, Prepared):
            assert self.console is not None
            input_SCT, before_SCT = prepared.stems_SCT, self.console(prepared, amount_S)
        else:
            input_SCT = before_SCT = prepared
        after_SCT = before_SCT
        if self.tcn is not None:
            after_SCT = self.tcn(before_SCT.flatten(0, 1).unsqueeze(0)).view_as(before_SCT)
            if amount_S is not None:
                after_SCT = before_SCT + amount_S.view(-1, 1, 1) * (after_SCT - before_SCT)
        active_S11 = self.active_S11
        if amount_S is not None:
            active_S11 = active_S11 & (amount_S > 0).view(-1, 1, 1)
        # `where` and not a product: silence that turns to NaN times zero would still be NaN.
        return torch.where(active_S11, after_SCT, input_SCT), before_SCT

    def forward(self, stems_SCT: Tensor, amount_S: Tensor) -> Tensor:
        """See `mixprint.transfer.effect.Effect`."""
        amount_S = check_amount(amount_S).to(stems_SCT)
        with torch.no_grad():
            return self.render(self.prepare(stems_SCT), amount_S)[0]

    def settings(self, amount_S: Tensor) -> dict[str, dict[str, float]]:
        """See `Effect` and `Console.settings`; without the stems that are left alone."""
        if self.console is None:
            return {}
        amount_S = check_amount(amount_S).to(self.console.gain_S)
        settings = self.console.settings(amount_S)
        return {stem: values for stem, values in settings.items() if stem not in self.left_alone}
