"""Transfer by a controller: one pass sets the console, and a fit may go on from there.

The controller hears the input's stems as tracks, and the target's stems as the reference; of a
target that is several songs or a saved style it knows the embedding alone. The level of the whole
stays that of the input: how loud a mix is made is no part of what a controller predicts for stems.

The fit (`controller+`) looks for what `mixprint.transfer.methods.console_fit` looks for, but begins
at the prediction, and its prior is the controller's own spread.

Shape suffixes: S stem, C channel, T sample.
"""

import math
import time
from typing import cast

import torch
from torch import Tensor

from mixprint.console.rendering import render
from mixprint.console.schema import MASTER
from mixprint.console.settings import Settings
from mixprint.controller.checkpoint import Controller
from mixprint.controller.hearing import predict_for_embedding
from mixprint.controller.prediction import Prediction
from mixprint.errors import CheckpointError
from mixprint.stems import STEMS
from mixprint.transfer.methods.console_effect import ConsoleEffect
from mixprint.transfer.methods.console_fit import fit_from, within
from mixprint.transfer.methods.console_search import knobs_around
from mixprint.transfer.methods.one_pass import one_pass_result
from mixprint.transfer.methods.problem import Problem
from mixprint.transfer.methods.result import TransferResult


def set_in_one_pass(problem: Problem) -> TransferResult:
    """Set the console by one pass of the controller.

    Raises:
        CheckpointError: the target is known by an embedding alone, and the controller knows another
            encoder.
    """
    started_s = time.perf_counter()
    settings, _ = _predicted(problem)
    return one_pass_result(problem, ConsoleEffect(settings, problem.sample_rate_hz), started_s)


def fit_from_prediction(problem: Problem) -> TransferResult:
    """Fit the console from the controller's settings on, with its spread as the prior.

    Raises:
        CheckpointError: see `set_in_one_pass`.
        TrainingError: see `mixprint.transfer.fit.fit_style`.
    """
    settings, prediction = _predicted(problem)
    left_alone = problem.distances.left_alone
    # The master acts on all stems alike.
    strips = (*left_alone, MASTER) if left_alone else ()
    knobs = knobs_around(settings, prediction.spread, strips)
    return fit_from(problem, settings, knobs, is_predicted=True)


def _predicted(problem: Problem) -> tuple[Settings, Prediction]:
    """Return the settings, with what is left alone neutral and the level of the input."""
    controller = cast("Controller", problem.model)
    stems_SCT = torch.cat(list(problem.segments_SCT), dim=-1)
    prediction = _prediction(controller, problem, stems_SCT)
    left_alone = problem.distances.left_alone
    # The master acts on all stems alike.
    patterns = [*left_alone, MASTER] if left_alone else []
    settings = prediction.settings.lock(Settings.neutral(STEMS), patterns)
    return _at_input_level(settings, stems_SCT, problem.sample_rate_hz, left_alone), prediction


def _prediction(controller: Controller, problem: Problem, stems_SCT: Tensor) -> Prediction:
    style, encoder = problem.style, problem.encoder
    if problem.reference_SCT is not None:
        fits = encoder is not None and encoder.fingerprint == controller.encoder_fingerprint
        return controller.predict(
            stems_SCT,
            STEMS,
            problem.sample_rate_hz,
            stems_SCT=problem.reference_SCT.to(stems_SCT),
            encoder=encoder if fits else None,
            roles=STEMS,
        )
    if style.embedding_E is None or style.encoder is None:
        raise CheckpointError(
            f"style {style.title}: expected one song, or an embedding, for a controller to hear, "
            "found neither"
        )
    return predict_for_embedding(
        controller, stems_SCT, STEMS, problem.sample_rate_hz, style.embedding_E, style.encoder
    )


def _at_input_level(
    settings: Settings, stems_SCT: Tensor, sample_rate_hz: int, left_alone: tuple[str, ...]
) -> Settings:
    """Bring what is changed together to the power that it had."""
    changed = [row for row, stem in enumerate(STEMS) if stem not in left_alone]
    if not changed:
        return settings
    made_SCT = render(stems_SCT.cpu(), settings, sample_rate_hz)
    before, after = (
        float(x_SCT[changed].sum(dim=0).double().square().mean())
        for x_SCT in (stems_SCT.cpu(), made_SCT)
    )
    if before <= 0 or after <= 0:
        return settings
    change_db = 10 * math.log10(before / after)
    paths = [f"{MASTER}.output_db"]
    if left_alone:
        paths = [f"{STEMS[row]}.fader_db" for row in changed]
    return within(settings, {path: settings[path] + change_db for path in paths})
