"""Fine-tune Stable Diffusion on UV texture atlases: only texels that land on the mesh count.

    accelerate launch --config_file accelerate_config.yaml train_texture.py --config configs/demo.yaml

`texdiff train --config configs/demo.yaml` is the same with all GPUs, or else all cores. Settings come from files and
flags (--help), precision and the number of processes from accelerate's own file. The same command continues a run that
was stopped. A demo that a CPU does in minutes: make demo.
"""

import sys
from itertools import islice

from texdiff.cli.train_arguments import parse_command_line, report_error
from texdiff.config import TrainingConfig
from texdiff.errors import InputError
from texdiff.training.run.stop_signals import StopSignals


def train(config: TrainingConfig, dry_run: bool, stop: StopSignals) -> None:
    """One run, from the dataset to exported weights."""
    # Imported here, so that --help and a wrong key need not wait for torch.
    import torch

    from texdiff.data.cache.encode import encode_dataset
    from texdiff.diffusion.draws import seed_layers
    from texdiff.diffusion.loss import region_errors
    from texdiff.models.trainable import make_trainable
    from texdiff.report import write_report
    from texdiff.training import startup
    from texdiff.training.batching import BatchPlan
    from texdiff.training.ema import make_ema
    from texdiff.training.micro_batches import feed, make_micro_batches
    from texdiff.training.objective import Objective
    from texdiff.training.optimizer import prepare_optimizer, step_size
    from texdiff.training.parallel import Parallel
    from texdiff.training.run import Run
    from texdiff.training.run.checkpoint import Checkpointer
    from texdiff.training.run.export import Export
    from texdiff.training.run.metrics_log import MetricsLog
    from texdiff.training.speed import speed_up
    from texdiff.training.validation import Validation

    # Where the run is, and what is about to happen.
    setting, maps, last_step = config.run, config.layout.maps, config.run.max_train_steps
    parallel = Parallel()
    run = stop.run = Run.choose(setting.output_dir, setting.resume, last_step, parallel)
    records, held_out = startup.read_splits(config, parallel)
    family = startup.load_base(config)  # encoders, noise process, denoiser
    plan = BatchPlan(setting.train_batch_size, setting.gradient_accumulation_steps, parallel.rank, parallel.world)
    sizes = startup.print_summary(config, run, family, plan, parallel, records, held_out)
    if dry_run:
        return

    # What the frozen encoders make of the dataset, once; then they leave the device.
    textures, held_out_textures = encode_dataset(config.data, config.mask, family, records, held_out, parallel, maps)
    run.create(config, sizes, parallel)
    stop.at_end(lambda: write_report(run.folder))
    log = MetricsLog(run, parallel, plan.effective_batch, config, textures.mixture)
    stop.at_end(log.close)

    # What is trained: adapters, every weight, or a layout net. Parameters are asked for once the module is wrapped.
    trainable = make_trainable(family, config.model.train, config.lora, setting.seed, parallel.dtype, config.layout)
    model = parallel.prepare_model(speed_up(trainable, config, parallel, textures))
    parameters = trainable.trained()
    optimizer, clip_gradients, lr_scheduler = prepare_optimizer(config, parameters.values(), parallel)
    ema = make_ema(config.optim, parameters.values(), optimizer)
    objective = Objective(config, family, trainable, parallel)
    export = Export(config, trainable, ema, run, parallel)

    # The same command continues a stopped run. Progress is one number, since every draw is keyed by its sample.
    checkpoints = Checkpointer(run, log, config, textures.content, parameters, optimizer, lr_scheduler, ema, export)
    first_step = checkpoints.resume()
    startup.report_masks(textures, config, run, parallel)
    validation = Validation(config, family, trainable, ema, export, log, held_out_textures, records, stop)
    startup.draw_first_batch(textures, plan, config, run)
    stop.finish_steps(checkpoints.save, parallel)
    if config.due(first_step, config.validation.every):
        validation.run(first_step)  # the base's own figures; or what was due when the run was stopped
    stop.check(first_step)

    coming = feed(make_micro_batches(config, textures, plan, objective, first_step), parallel.device, parallel.dtype)
    for step in log.steps(first_step, last_step, until=validation.stalled):  # counted from 1, as a checkpoint's
        loss, errors = (torch.zeros(size, device=parallel.device) for size in (len(textures.mixture.groups), (2, 3)))
        for batch in islice(coming, plan.accumulation_steps):  # this rank's micro-batches, made ahead, on the device
            latents = family.latents(batch.textures.mean, batch.textures.std, batch.draws.posterior)  # [B, C, h, w]
            noisy = family.process.add_noise(latents, batch.draws.added, batch.t)
            targets = objective.targets(latents, noisy, batch)  # under the mask; outside the same, or the base model's
            with parallel.sync_gradients(model, only_if=batch.is_last):
                seed_layers(setting.seed, batch.keys)  # dropout, keyed as well
                prediction = model(noisy.to(parallel.dtype), batch.t, batch.conditioning)
                losses = objective.losses(prediction, targets, batch)  # [B]; summed over step and ranks: its loss
                log.finite.add(losses, batch.textures.names)
                parallel.backward(losses.sum())
            loss += textures.mixture.by_group(losses.detach(), batch.group)
            errors += region_errors(prediction, targets.inside, batch.textures.covered)

        grad_norm = clip_gradients()
        log.finite.check(step, grad_norm)
        rates = {"learning_rate": step_size(optimizer, lr_scheduler), "grad_norm": grad_norm}
        optimizer.step()
        optimizer.zero_grad()
        if not parallel.step_was_skipped:
            lr_scheduler.step()
            ema.step()
        log.add(step, loss, errors, batch.portions, **rates, coverage=batch.coverage)

        # Once in a while.
        if config.due(step, setting.checkpointing_steps):
            checkpoints.save(step)
        if config.due(step, config.validation.every):
            validation.run(step)
        stop.check(step)

    checkpoints.save(log.done)  # is there already, but where the run stopped early
    export.finish(log.done)
    run.finish(parallel)


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
