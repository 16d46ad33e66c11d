"""Fine-tune Stable Diffusion on UV texture atlases: only texels that land on the model count.

A run that a CPU does in minutes, on meshes made by code and the small base that comes along:

    python -m texdiff.demo.make outputs/meshes
    texdiff prepare outputs/meshes --output outputs/dataset
    accelerate launch --config_file accelerate_config.yaml train_texture.py --config configs/demo.yaml

Settings come from files and flags (--help); precision and the number of processes from accelerate's own file.
The same command again goes on where the run stopped.
"""

import sys
from contextlib import nullcontext

from texdiff.config import TrainingConfig, parse_command_line, report_error
from texdiff.errors import InputError
from texdiff.training.run.stop_signals import StopSignals


def train(config: TrainingConfig, dry_run: bool, stop: StopSignals) -> None:
    """One run, from the dataset to exported weights."""
    # Imported here, so that --help and a wrong key need not wait for torch.
    import torch

    from texdiff.diffusion.draws import sample_keys, seed_layers
    from texdiff.diffusion.loss import masked_error, region_errors
    from texdiff.models.base import add_lora, load_base, trainable_parameters
    from texdiff.report import write_report
    from texdiff.training import launch
    from texdiff.training.ema import Ema
    from texdiff.training.encode import encode_dataset
    from texdiff.training.export import export
    from texdiff.training.first_batch import draw_first_batch
    from texdiff.training.housekeeping import Housekeeping
    from texdiff.training.mask_report import say_masks
    from texdiff.training.micro_batches import feed, make_passes
    from texdiff.training.objective import Objective, PixelError, base_prediction
    from texdiff.training.optimizer import make_clip, make_lr_scheduler, make_optimizer
    from texdiff.training.run.checkpoint import RunState
    from texdiff.training.run.run_folder import RunLog, choose_run_folder
    from texdiff.training.speed import speed_up
    from texdiff.training.validation import Validation

    run, mask = config.run, config.mask

    # What is about to happen.
    folder, checkpoint = choose_run_folder(run.output_dir, run.resume)
    stop.run = folder
    accelerator = launch.start_accelerator(run.report_to, folder)
    device, dtype = accelerator.device, launch.weight_dtype(accelerator)
    records, held_out = launch.read_splits(config, accelerator)
    base = load_base(config.model.pretrained_model_name_or_path, config.model.revision, config.model.variant)
    objective = Objective(config, base)
    process = objective.process
    passes = launch.split_batch(run.train_batch_size, run.gradient_accumulation_steps, accelerator)
    sizes = launch.announce(config, accelerator, records, held_out, passes.effective_batch, folder, checkpoint)
    if dry_run:
        return

    # What the frozen encoders make of the dataset, once; then their memory is free.
    textures, held_out_textures = encode_dataset(config, base, accelerator, records, held_out)
    launch.open_run_folder(config, accelerator, folder, sizes)
    stop.at_end(write_report)
    say_masks(textures, mask, accelerator, folder)
    pixel_error = PixelError(config, base, objective, accelerator) if mask.pixel_weight else None

    # The U-Net: frozen under adapters, or trained whole.
    unet = base.unet
    if config.model.train == "lora":
        add_lora(unet.to(dtype), config.lora, run.seed)
    speed_up(unet.train(), config, device, dtype, textures)
    parameters = trainable_parameters(unet)
    optimizer = make_optimizer(config.optim, parameters.values(), scaled=accelerator.scaler is not None)
    clip_gradients = make_clip(config.optim, optimizer, parameters.values(), accelerator)
    lr_scheduler = make_lr_scheduler(config.optim, optimizer, run.max_train_steps)
    model, optimizer = accelerator.prepare(unet, optimizer)
    ema = Ema(parameters.values(), config.optim.ema_decay if config.optim.use_ema else None)

    # A run that was stopped goes on. Progress is one number, since every draw is keyed by its sample.
    state = RunState(
        parameters, optimizer, lr_scheduler, accelerator, config, textures.content, passes.effective_batch, {"ema": ema}
    )
    first_step = state.load(checkpoint) if checkpoint else 0
    log = RunLog(folder, accelerator, first_step, passes.effective_batch)
    validation = Validation(
        config, base, objective, unet, ema, accelerator, log, held_out_textures, records, folder, stop
    )
    house = Housekeeping(config, accelerator, folder, log, state, validation, stop)
    if first_step == 0 and accelerator.is_main_process:
        draw_first_batch(textures, sample_keys(run.seed, 0, passes.effective_batch, len(textures)), config, folder)
    house.begin(first_step)

    coming = make_passes(config, textures, passes, objective, first_step=first_step)
    loss, errors = torch.zeros((), device=device), torch.zeros(2, 3, device=device)
    for one in house.counting(feed(coming, device, dtype), first_step):
        batch, draws, timesteps, (weight, pixel_weight) = one.batch, one.draws, one.draws.timesteps, one.weights
        latents = base.scaling_factor * (batch.mean + batch.std * draws.posterior)  # [B, 4, h, w]
        noisy = process.add_noise(latents, draws.added, timesteps)
        target = outside = process.target(latents, draws.noise, timesteps)
        if mask.outside == "base_model":
            outside = base_prediction(unet, noisy.to(dtype), timesteps, batch.text)
        with nullcontext() if one.last else accelerator.no_sync(model):
            seed_layers(run.seed, one.keys)
            prediction = model(noisy.to(dtype), timesteps, batch.text).sample
            error = masked_error(prediction, target, batch.mask) + masked_error(prediction, outside, batch.outside)
            losses = weight * error  # [B]; over all passes of a step, and all ranks, they add up to its loss
            if pixel_error:
                losses = losses + pixel_weight * pixel_error(prediction, noisy, latents, timesteps, batch.texels)
            log.guard.check(one.step + 1, losses, batch.names)
            accelerator.backward(losses.sum() * accelerator.num_processes)  # ranks average their gradients
        loss += losses.detach().sum()
        errors += region_errors(prediction, target, batch.covered)
        if not one.last:
            continue

        grad_norm = clip_gradients()
        log.guard.check_gradient(one.step + 1, grad_norm)
        learning_rate = lr_scheduler.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            lr_scheduler.step()
            ema.step()
        figures = {"learning_rate": learning_rate, "grad_norm": grad_norm, "coverage": one.coverage}
        house.after(one.step + 1, loss, errors, figures)
        loss, errors = torch.zeros_like(loss), torch.zeros_like(errors)

    with ema.averaged():
        export(config, base, unet, folder, accelerator)
    launch.finish(accelerator, folder)


def main() -> None:
    """Entry point: bad input is one line on stderr and exit code 2."""
    command = parse_command_line(usage=__doc__)
    try:
        with StopSignals(command.config.run.resume) as stop:
            train(command.config, command.dry_run, stop)
    except InputError as error:
        sys.exit(report_error(error))


if __name__ == "__main__":
    main()
