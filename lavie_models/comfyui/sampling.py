"""LaVie's noise levels in ComfyUI's variables.

ComfyUI's own discrete sampling rounds a noise level to the nearest trained timestep. LaVie's timestep embedding is
continuous and its reference Euler sampler uses fractional timesteps, so these classes do not round.
"""

from __future__ import annotations

import comfy.model_sampling

from ..schedule import noise_levels, sigmas_to_timesteps, timesteps_to_sigmas


class LaVieSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """The schedule that the networks were trained on (``schedule.py``), with fractional timesteps."""

    def __init__(self, model_config=None):
        super().__init__(model_config)
        self.set_sigmas(noise_levels())

    def timestep(self, sigma):
        return sigmas_to_timesteps(sigma, self.sigmas)

    def sigma(self, timestep):
        return timesteps_to_sigmas(timestep, self.sigmas)


class EpsilonSampling(LaVieSampling, comfy.model_sampling.EPS):
    """For networks that predict the noise."""


class VelocitySampling(LaVieSampling, comfy.model_sampling.V_PREDICTION):
    """For networks that predict the velocity."""


SAMPLINGS = {"epsilon": EpsilonSampling, "v": VelocitySampling}
