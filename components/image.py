"""The container image of the steps. KFP fixes it when a component is decorated, at import."""

import os

IMAGE = os.environ.get("MIXPRINT_IMAGE", "mixprint:0.1.0")
