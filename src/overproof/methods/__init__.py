"""Training methods: frozen options that yield the losses of a step; one class per paper."""

from typing import TYPE_CHECKING

from overproof.lazy import lazily

if TYPE_CHECKING:
    from overproof.methods.adaad import AdaAD
    from overproof.methods.adaiad import AdaIAD
    from overproof.methods.ard import ARD
    from overproof.methods.awp import AWP
    from overproof.methods.b_mtard import BMTARD
    from overproof.methods.catalogue import methods
    from overproof.methods.crown_ibp import CROWNIBP
    from overproof.methods.faithful import Faithful
    from overproof.methods.fast_ard import FastARD
    from overproof.methods.fast_at import FastAT
    from overproof.methods.free_at import FreeAT
    from overproof.methods.iad import IAD
    from overproof.methods.ibp import IBP
    from overproof.methods.igdm import IGDM
    from overproof.methods.kd import KD
    from overproof.methods.mart import MART
    from overproof.methods.method import Method, Step
    from overproof.methods.mtard import MTARD
    from overproof.methods.mtl_ibp import MTLIBP
    from overproof.methods.natural import Natural
    from overproof.methods.peeraid import PeerAiD
    from overproof.methods.pgd_at import PGDAT
    from overproof.methods.rrm import RRM
    from overproof.methods.rslad import RSLAD
    from overproof.methods.saad import SAAD
    from overproof.methods.sabr import SABR
    from overproof.methods.staps import STAPS
    from overproof.methods.taps import TAPS
    from overproof.methods.trades import TRADES

_HOMES = {
    "ARD": "overproof.methods.ard",
    "AWP": "overproof.methods.awp",
    "AdaAD": "overproof.methods.adaad",
    "AdaIAD": "overproof.methods.adaiad",
    "BMTARD": "overproof.methods.b_mtard",
    "CROWNIBP": "overproof.methods.crown_ibp",
    "Faithful": "overproof.methods.faithful",
    "FastARD": "overproof.methods.fast_ard",
    "FastAT": "overproof.methods.fast_at",
    "FreeAT": "overproof.methods.free_at",
    "IAD": "overproof.methods.iad",
    "IBP": "overproof.methods.ibp",
    "IGDM": "overproof.methods.igdm",
    "KD": "overproof.methods.kd",
    "MART": "overproof.methods.mart",
    "MTARD": "overproof.methods.mtard",
    "MTLIBP": "overproof.methods.mtl_ibp",
    "Method": "overproof.methods.method",
    "Natural": "overproof.methods.natural",
    "PGDAT": "overproof.methods.pgd_at",
    "PeerAiD": "overproof.methods.peeraid",
    "RRM": "overproof.methods.rrm",
    "RSLAD": "overproof.methods.rslad",
    "SAAD": "overproof.methods.saad",
    "SABR": "overproof.methods.sabr",
    "STAPS": "overproof.methods.staps",
    "TAPS": "overproof.methods.taps",
    "Step": "overproof.methods.method",
    "TRADES": "overproof.methods.trades",
    "methods": "overproof.methods.catalogue",
}

__all__ = [
    "ARD",
    "AWP",
    "BMTARD",
    "CROWNIBP",
    "IAD",
    "IBP",
    "IGDM",
    "KD",
    "MART",
    "MTARD",
    "MTLIBP",
    "PGDAT",
    "RRM",
    "RSLAD",
    "SAAD",
    "SABR",
    "STAPS",
    "TAPS",
    "TRADES",
    "AdaAD",
    "AdaIAD",
    "Faithful",
    "FastARD",
    "FastAT",
    "FreeAT",
    "Method",
    "Natural",
    "PeerAiD",
    "Step",
    "methods",
]

if not TYPE_CHECKING:  # where every other name would pass for one that exists
    __getattr__, __dir__ = lazily(__name__, _HOMES)
