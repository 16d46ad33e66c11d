"""What a LoRA file says about itself, under kohya's names (`ss_*`) and those of ModelSpec.

Only what is known is said, and nothing that differs between two runs that train the same: no date, no folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# Width of the text embeddings -> Stable Diffusion's version.
_VERSIONS = {768: "v1", 1024: "v2"}
XL = "sdxl_base_v1-0"  # kohya's name
# The names that the programs know for what the U-Net predicts; for others there is none.
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
# Of the diffusers layout, and of kohya's.
IMPLEMENTATIONS = {"diffusers": "diffusers", "kohya": "https://github.com/Stability-AI/generative-models"}


Settings = Mapping[str, Mapping[str, Any]]
"""Those of a run, as its config.yaml holds them."""


def lora_metadata(settings: Settings, denoiser: Any, prediction_type: str, textures: int, steps: int) -> dict[str, str]:
    """The metadata of a LoRA for a diffusers model that was trained on that many textures for that many steps, for its
    file in diffusers' layout."""
    xl = denoiser.config.addition_embed_type == "text_time"
    if settings["lora"].get("init") is not None:  # whose rank and strength it has
        adapter = denoiser.peft_config["default"]
        settings = {**settings, "lora": {**settings["lora"], "rank": adapter.r, "alpha": adapter.lora_alpha}}
    version = XL if xl else _VERSIONS.get(denoiser.config.cross_attention_dim)
    prediction = _PREDICTIONS.get(prediction_type)
    side = settings["data"]["resolution"]
    base = Path(settings["model"]["pretrained_model_name_or_path"]).name
    known = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{_architecture(version, prediction)}/lora",
        "modelspec.implementation": IMPLEMENTATIONS["diffusers"],
        "modelspec.title": f"UV texture atlases, LoRA of rank {settings['lora']['rank']} for {base}",
        "modelspec.description": f"Trained with texdiff on {textures} UV texture atlases, masked to mapped texels.",
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": prediction,
        **_kohya(settings, base, version, prediction),
        "ss_num_train_images": textures,
        "ss_steps": steps,
    }
    return {key: str(value) for key, value in known.items() if value is not None}


def _architecture(version: str | None, prediction: str | None) -> str:
    if version == XL:
        return "stable-diffusion-xl-v1-base"
    if version == "v2":
        return f"stable-diffusion-v2-{'768-v' if prediction == 'v' else '512'}"
    return f"stable-diffusion-{version}" if version else "stable-diffusion"


def _kohya(settings: Settings, base: str, version: str | None, prediction: str | None) -> dict[str, Any]:
    """The training settings under the names that kohya's scripts write and the WebUI shows."""
    known = version if version == XL else f"sd_{version}{'_v' if prediction == 'v' else ''}" if version else "sd"
    side = settings["data"]["resolution"]
    lora, optim = settings["lora"], settings["optim"]
    return {
        "ss_base_model_version": known,
        "ss_sd_model_name": base,
        "ss_v2": version == "v2",
        "ss_network_module": "networks.lora",
        "ss_network_dim": lora["rank"],
        "ss_network_alpha": float(lora["rank"] if lora["alpha"] is None else lora["alpha"]),
        "ss_network_dropout": lora["dropout"] or None,
        "ss_learning_rate": optim["learning_rate"],
        "ss_unet_lr": optim["learning_rate"],
        "ss_optimizer": optim["name"],
        "ss_lr_scheduler": optim["lr_scheduler"],
        "ss_lr_warmup_steps": optim["lr_warmup_steps"],
        "ss_max_grad_norm": optim["max_grad_norm"],
        "ss_max_train_steps": settings["run"]["max_train_steps"],
        "ss_seed": settings["run"]["seed"],
        "ss_resolution": f"({side}, {side})",
        "ss_clip_skip": skip + 1 if (skip := settings["model"].get("clip_skip")) is not None else None,
        "ss_max_token_length": length if (length := settings["data"].get("max_token_length", 77)) > 77 else None,
        "ss_caption_dropout_rate": settings["data"]["caption_dropout"],
        "ss_min_snr_gamma": settings["noise"]["snr_gamma"],
        "ss_noise_offset": settings["noise"]["offset"] or None,
        "ss_ip_noise_gamma": settings["noise"]["input_perturbation"] or None,
        "ss_zero_terminal_snr": settings["noise"]["rescale_betas_zero_snr"],
    }
