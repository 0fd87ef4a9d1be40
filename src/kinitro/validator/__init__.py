"""The validator: checks the weights that a backend publishes, and sets them on chain."""

from kinitro.validator.service import serve, set_once
from kinitro.validator.validator import Deed, Standing
from kinitro.validator.verify import WeightsRefused

__all__ = ["Deed", "Standing", "WeightsRefused", "serve", "set_once"]
