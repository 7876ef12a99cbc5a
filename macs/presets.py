"""Pictures in a few steps: what distilled models and their LoRAs want in place of the paper's 20 guided steps.

pipe.load_lora_weights("latent-consistency/lcm-lora-sdv1-5")
pipe("rain.wav", **use_preset(pipe, "lcm")).images
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """What a few steps want: scheduler, a class of diffusers, with `config` over the model's own; a call's arguments.

    With a guidance_scale up to 1 there is no guidance, and the UNet sees every picture once a step. lora: the LoRA for
    it, or "" where none is usual.
    """

    scheduler: str
    steps: int
    guidance_scale: float
    lora: str = ""
    config: dict = field(default_factory=dict)


TRAILING = {"timestep_spacing": "trailing"}  # the first step is the noisiest one
PRESETS = {
    # LCM-LoRA (Luo et al., 2023)
    "lcm": Preset("LCMScheduler", 4, 1.0, "latent-consistency/lcm-lora-sdv1-5"),
    # Hyper-SD (Ren et al., 2024): each LoRA is for its own number of steps
    "hyper": Preset("DDIMScheduler", 4, 1.0, "ByteDance/Hyper-SD/Hyper-SD15-4steps-lora.safetensors", TRAILING),
    # sd-turbo, sdxl-turbo (Sauer et al., 2023): distilled as a whole
    "turbo": Preset("EulerAncestralDiscreteScheduler", 4, 1.0, config=TRAILING),
}


def preset_scheduler(name, scheduler, class_name=None):
    """The preset's scheduler for the model that `scheduler` belongs to; class_name: another class, with its config."""
    import diffusers

    preset = PRESETS[name]
    return getattr(diffusers, class_name or preset.scheduler).from_config(scheduler.config, **preset.config)


def use_preset(pipe, name):
    """Gives the pipeline the preset's scheduler; returns the preset's arguments of a call."""
    pipe.scheduler = preset_scheduler(name, pipe.scheduler)
    return {"num_inference_steps": PRESETS[name].steps, "guidance_scale": PRESETS[name].guidance_scale}
