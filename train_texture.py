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

    from texdiff.data.cache.encode import encode_dataset
    from texdiff.diffusion.draws import sample_keys, seed_layers
    from texdiff.diffusion.loss import region_errors
    from texdiff.models.family import load_family
    from texdiff.models.trainable import make_trainable
    from texdiff.report import write_report
    from texdiff.training import launch
    from texdiff.training.ema import Ema
    from texdiff.training.export import export
    from texdiff.training.first_batch import draw_first_batch
    from texdiff.training.housekeeping import Housekeeping
    from texdiff.training.mask_report import say_masks
    from texdiff.training.micro_batches import feed, make_micro_batches, steps
    from texdiff.training.objective import Objective
    from texdiff.training.optimizer import make_clip, make_lr_scheduler, make_optimizer
    from texdiff.training.run.checkpoint import RunState
    from texdiff.training.run.run_folder import RunLog, choose_run_folder
    from texdiff.training.speed import speed_up
    from texdiff.training.validation import Validation

    run = config.run

    # What is about to happen.
    folder, checkpoint = choose_run_folder(run.output_dir, run.resume)
    stop.run = folder
    accelerator = launch.start_accelerator(run.report_to, folder)
    device, dtype = accelerator.device, launch.weight_dtype(accelerator)
    records, held_out = launch.read_splits(config, accelerator)
    base = config.model.pretrained_model_name_or_path, config.model.revision, config.model.variant
    family = load_family(*base, config.noise.rescale_betas_zero_snr)  # encoders, noise process, denoiser
    process = family.process
    plan = launch.split_batch(run.train_batch_size, run.gradient_accumulation_steps, accelerator)
    sizes = launch.announce(config, accelerator, records, held_out, plan.effective_batch, folder, checkpoint)
    if dry_run:
        return

    # What the frozen encoders make of the dataset, once; then they leave the device.
    ranks = launch.ranks(accelerator)
    textures, held_out_textures = encode_dataset(config.data, config.mask, family, records, held_out, ranks)
    launch.open_run_folder(config, accelerator, folder, sizes)
    stop.at_end(write_report)
    say_masks(textures, config.mask, accelerator, folder)

    # What is trained: adapters, or every weight. Parameters are asked for once the module is wrapped.
    trainable = make_trainable(family, config.model.train, config.lora, run.seed, dtype)
    speed_up(trainable, config, device, dtype, textures)
    model = accelerator.prepare_model(trainable)
    parameters = trainable.trained()
    optimizer = make_optimizer(config.optim, parameters.values(), scaled=accelerator.scaler is not None)
    clip_gradients = make_clip(config.optim, optimizer, parameters.values(), accelerator)
    lr_scheduler = make_lr_scheduler(config.optim, optimizer, run.max_train_steps)
    optimizer = accelerator.prepare_optimizer(optimizer)
    ema = Ema(parameters.values(), config.optim.ema_decay if config.optim.use_ema else None)
    objective = Objective(config, family, trainable, device, dtype)

    # A stopped run is resumed. Progress is one number, since every draw is keyed by its sample.
    state = RunState(
        parameters, optimizer, lr_scheduler, accelerator, config, textures.content, plan.effective_batch, {"ema": ema}
    )
    first_step = state.load(checkpoint) if checkpoint else 0
    log = RunLog(folder, accelerator, first_step, plan.effective_batch)
    validation = Validation(config, family, trainable, ema, accelerator, log, held_out_textures, records, folder, stop)
    house = Housekeeping(config, accelerator, folder, log, state, validation, stop)
    if first_step == 0 and accelerator.is_main_process:
        draw_first_batch(textures, sample_keys(run.seed, 0, plan.effective_batch, len(textures)), config, folder)
    house.begin(first_step)

    coming = feed(make_micro_batches(config, textures, plan, objective, first_step), device, dtype)
    for step, batches in house.counting(steps(coming, plan, first_step, run.max_train_steps), first_step):
        loss, errors = torch.zeros((), device=device), torch.zeros(2, 3, device=device)
        for batch in batches:  # this rank's micro-batches, made ahead, on the device
            latents = family.latents(batch.textures.mean, batch.textures.std, batch.draws.posterior)  # [B, C, h, w]
            noisy = process.add_noise(latents, batch.draws.added, batch.t)
            targets = objective.targets(latents, noisy, batch)  # under the mask; outside the same, or the base model's
            with nullcontext() if batch.is_last else accelerator.no_sync(model):
                seed_layers(run.seed, batch.keys)  # dropout, keyed as well
                prediction = model(noisy.to(dtype), batch.t, batch.conditioning)
                losses = objective.losses(prediction, targets, batch)  # [B]; summed over step and ranks: its loss
                log.guard.check(step + 1, losses, batch.textures.names)
                accelerator.backward(losses.sum() * accelerator.num_processes)  # ranks average their gradients
            loss += losses.detach().sum()
            errors += region_errors(prediction, targets.inside, batch.textures.covered)

        grad_norm = clip_gradients()
        log.guard.check_gradient(step + 1, grad_norm)
        learning_rate = lr_scheduler.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            lr_scheduler.step()
            ema.step()
        figures = {"learning_rate": learning_rate, "grad_norm": grad_norm, "coverage": batch.coverage}
        house.after(step + 1, loss, errors, figures)

    with ema.averaged():
        export(config, trainable, folder, accelerator)
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
