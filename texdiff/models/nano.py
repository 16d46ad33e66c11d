"""`nano`: a small Stable Diffusion of the true classes, built by code, so that everything runs offline.

Its shapes are Stable Diffusion 1's in small: an 8x autoencoder with 4 channels, CLIP's tokenizer and text
transformer, a cross-attention U-Net, and the same noise schedule. `nano_folder` is the one to call.

    python -m texdiff.models.nano FOLDER        # writes a pipeline folder with random weights
"""

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from texdiff.errors import InputError
from texdiff.files import follow_umask, hold
from texdiff.storage import default_cache_dir

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

RESOLUTION = 256
MERGES = Path(str(files("texdiff").joinpath("assets/clip_bpe/merges.txt")))
TEXT_WIDTH = 32
"""Small, because CLIP's vocabulary of 49,408 tokens takes this many weights per entry."""


def clip_tokenizer(folder: Path, pad_token: str = "<|endoftext|>") -> "CLIPTokenizer":
    """CLIP's byte-pair tokenizer (49,408 entries), made from its list of merges; writes its files to `folder`.

    OpenCLIP's, of Stable Diffusion 2 and of XL's second encoder, is the same with `!`, entry 0, as its padding.
    """
    from transformers import CLIPTokenizer

    merges = MERGES.read_text("utf-8")
    pairs = merges.splitlines()[1:]
    symbols = _byte_symbols()
    words = [*symbols, *(s + "</w>" for s in symbols), *(p.replace(" ", "") for p in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text(merges, "utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=77,
        pad_token=pad_token,
    )
    return tokenizer


def count_clip_tokens(texts: Sequence[str]) -> list[int]:
    """The tokens of each text, without marks of start and end."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = clip_tokenizer(Path(folder))
    return [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids]


def _byte_symbols() -> list[str]:
    """The 256 printable characters that stand for bytes in CLIP's vocabulary, in the vocabulary's order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = 256 - len(printable)
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(rest)]


def make_vae() -> "AutoencoderKL":
    """8x smaller a side, 4 channels. No attention, so that crops and full images are treated alike."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(16, 32, 64, 120),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=RESOLUTION,
        scaling_factor=0.18215,
    )


def make_text_encoder() -> "CLIPTextModel":
    """CLIP's text transformer, two layers deep."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def make_unet() -> "UNet2DConditionModel":
    """Three levels; attention at 16 x 16 latents and below, where it is cheap on a CPU."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=RESOLUTION // 8,
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_nano_layout_net(unet: "UNet2DConditionModel") -> "ControlNetModel":
    """A new layout net for position maps beside `unet`, with a narrow hint encoder: positions change slowly, and one of
    diffusers' width takes twice the U-Net's time.

    It is trained together with the U-Net, so its last layer is not zero. The channels of its first layer begin at
    planes through the object, drawn at random, so that a linear function of what comes out can say on which side of
    many a place a texel lies.
    """
    import torch

    from texdiff.models.layout_net import Maps, make_layout_net

    net = make_layout_net(unet, 8, Maps(), widths=(8, 16, 32, 64))
    hint = net.controlnet_cond_embedding
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        steepness, channels = 8.0, hint.conv_in.out_channels
        normals = steepness * torch.nn.functional.normalize(torch.randn(channels, 3), dim=1)
        points = 0.2 + 0.6 * torch.rand(channels, 3)
        hint.conv_in.weight.copy_((normals / 9)[:, :, None, None].expand(-1, -1, 3, 3))
        hint.conv_in.bias.copy_(-(normals * points).sum(dim=1))
        torch.nn.init.normal_(hint.conv_out.weight, std=0.004)  # beside what the net has of the latents, as large
    return net


def make_scheduler() -> "DDPMScheduler":
    """Stable Diffusion's noise schedule; the U-Net predicts the noise."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="epsilon",
        steps_offset=1,
    )


def build(folder: Path, seed: int = 0) -> None:
    """Write the pipeline folder with random weights drawn from `seed`."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_pipeline(folder, make_vae(), make_text_encoder(), make_unet())


def write_pipeline(
    folder: Path, vae: "AutoencoderKL", text_encoder: "CLIPTextModel", unet: "UNet2DConditionModel"
) -> None:
    """Write a pipeline folder of these parts, with CLIP's tokenizer and Stable Diffusion's noise schedule."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline

    pipeline: DiffusionPipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=clip_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def nano_folder() -> Path:
    """The pipeline folder of `nano`, ready for `from_pretrained`; put together on first use, then only looked up.

    The package ships the weights in half precision and the tokenizer's merges once; the folder, in the user's cache
    ($XDG_CACHE_HOME or ~/.cache, in texdiff/), has them in single precision with every tokenizer file. Its name holds
    a digest of what it was made from. Safe with several processes at once: it is made aside, then renamed.
    Raises InputError where the cache can't be written.
    """
    shipped = Path(str(files("texdiff").joinpath("assets/nano")))
    trained = (shipped / "unet/diffusion_pytorch_model.safetensors").exists()
    parts = (p for p in shipped.rglob("*") if p.is_file() and p.suffix != ".md")  # its card may change
    sources = sorted(parts) if trained else [Path(__file__)]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in [*sources, MERGES])).hexdigest()[:12]
    cache = default_cache_dir()
    folder = cache / f"nano-{digest}"
    if folder.exists():
        hold(folder)  # its weights may be loaded hours later
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".nano-", dir=cache))
    except OSError as error:
        raise InputError(f"{cache}: can't write here ({error.strerror}); set XDG_CACHE_HOME to a folder") from error
    try:
        made = aside / folder.name  # with the rights that the user's folders get; `aside` itself is private
        made.mkdir()
        _unpack(shipped, made) if trained else build(made)
        follow_umask(made)
        with contextlib.suppress(FileExistsError, OSError):  # another process was first: the same content
            made.rename(folder)
        hold(folder)
        return folder
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _unpack(shipped: Path, folder: Path) -> None:
    """Copy the shipped pipeline, its weights widened to float32, and add the tokenizer."""
    from safetensors.numpy import load_file, save_file

    for source in shipped.rglob("*"):
        target = folder / source.relative_to(shipped)
        if source.suffix == ".safetensors":
            target.parent.mkdir(parents=True, exist_ok=True)
            weights = {name: array.astype("float32") for name, array in load_file(source).items()}
            save_file(weights, target, metadata={"format": "pt"})
        elif source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    clip_tokenizer(folder / "tokenizer").save_pretrained(folder / "tokenizer")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
