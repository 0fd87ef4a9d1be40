"""The validator: checks the weights that a backend publishes, and sets them on chain."""

from kinitro.validator.service import serve, set_once
from kinitro.validator.validator import Deed, Standing
from kinitro.validator.verify import NoWeightsYet, WeightsRefused

__all__ = ["Deed", "NoWeightsYet", "Standing", "WeightsRefused", "serve", "set_once"]
