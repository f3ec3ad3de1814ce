"""Peak host memory of building and of resuming: four processes that shard a model (FSDP) against one that holds it.

``python benchmarks/rank_memory.py [--processes 4] [--width 768] [--layers 12] [--vocabulary 32000]``

A model of that shape with random weights is written in bfloat16, as models are published, and loaded in float32, as
they are trained. What is counted is what each process adds to its memory after everything is imported: the most private
memory it has before the first forward pass (``RssAnon``: without the pages of files, which all share), summed over the
processes. Then what resuming adds to that: each restores the checkpoint that it wrote after one step.
"""

import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

MIB = 2**20
MOST = 1.5


def main() -> None:
    """Print the peaks and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("processes", 4), ("width", 768), ("layers", 12), ("vocabulary", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = _in_processes(_write, 1, Path(folder), options.width, options.layers, options.vocabulary)[0]
        peaks = {
            (what, number): _in_processes(measure, number, Path(folder))
            for what, measure in (("building", _built), ("training", _trained), ("resuming", _resumed))
            for number in (1, options.processes)
        }
    print(f"weights in float32                 {size / MIB:8.0f} MiB")
    ratios = []
    for what in ("building", "resuming"):
        alone, together = sum(peaks[what, 1]), sum(peaks[what, options.processes])
        each = ", ".join(f"{peak / MIB:.0f}" for peak in peaks[what, options.processes])
        print(f"{what}: one process, whole         {alone / MIB:8.0f} MiB")
        print(f"{what}: {options.processes} processes, sharded     {together / MIB:8.0f} MiB  ({each})")
        ratios.append(together / alone)
        print(f"ratio                              {ratios[-1]:8.2f}  (at most {MOST})")
    sys.exit(max(ratios) > MOST)


def _in_processes(target, number, *arguments):
    """Results of ``target(rank, number, port, *arguments)`` in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with context.Pool(number) as pool:
        results = pool.starmap(target, [(rank, number, port, *arguments) for rank in range(number)], chunksize=1)
        pool.close()
        pool.join()
    return results


def _write(_rank, _number, _port, folder, width, layers, vocabulary):
    import torch

    from dlm.data.tokenizer_training import train_tokenizer
    from dlm.model.from_scratch import model_from_config
    from dlm.model.tokenizer import ensure_mask_token

    tokenizer = train_tokenizer(["a text of a few words"] * 8, vocab_size=280)
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64, "head_dim": 64}
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers, **heads}
    model = model_from_config(
        {**shape, "vocab_size": vocabulary}, vocab_size=280, mask_token_id=ensure_mask_token(tokenizer, None)
    )
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    model.to(torch.bfloat16).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "texts.jsonl").write_text('{"text": "a text of a few words"}\n' * 64, encoding="utf-8")
    return size


def _built(rank, number, port, folder):
    """What building the run adds to this process's memory, at most."""
    loaded = _run_file(rank, number, port, folder)
    from dlm.training import meta_model
    from dlm.training.assembly import assemble, build_accelerator

    accelerator = build_accelerator(loaded.config)
    with _peak_of() as (peak, is_done):
        # A forward pass gathers layer after layer, on the GPU where there is one: this is about what comes before.
        meta_model.prove = lambda *_: is_done.set()
        assemble(loaded, accelerator)
    accelerator.wait_for_everyone()
    return peak[0]


def _trained(rank, number, port, folder):
    """A checkpoint to resume from."""
    import dlm

    dlm.run(_run_file(rank, number, port, folder))
    return 0


def _resumed(rank, number, port, folder):
    """What restoring that adds to the memory of a run that was built, at most."""
    loaded = _run_file(rank, number, port, folder)
    from dlm.training.assembly import assemble, build_accelerator

    accelerator = build_accelerator(loaded.config)
    engine = assemble(loaded, accelerator)
    with _peak_of() as (peak, _):
        engine.saver.objects.read_checkpoint(folder / f"out-{number}" / "checkpoints" / "step-1")
    accelerator.wait_for_everyone()
    return peak[0]


def _run_file(rank, number, port, folder):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if number > 1:
        values = (rank, rank, number, number, "127.0.0.1", port)
        os.environ.update(zip(names, map(str, values), strict=True))
    os.environ["OMP_NUM_THREADS"] = "1"
    from dlm.config import load_config

    run_file = folder / f"run-{number}-{rank}.yaml"
    run_file.write_text(
        f"model: {{name_or_path: {folder}/model, dtype: float32}}\n"
        f"training: {{output_dir: {folder}/out-{number}, max_steps: 1, batch_size: 1, parallel: {{shard: {number}}}}}\n"
        f"dataset: {{name: {folder}/texts.jsonl, max_length: 8}}\n"
        "evaluation: {do_eval_loss: false}\n",
        encoding="utf-8",
    )
    return load_config(run_file)


@contextmanager
def _peak_of():
    """A list of one: how many bytes the process has more at most, until the event is set or the block ends."""
    before, peak, is_done = _private_bytes(), [0], threading.Event()

    def watch():
        while not is_done.is_set():
            peak[0] = max(peak[0], _private_bytes() - before)
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak, is_done
    finally:
        is_done.set()
        watcher.join()


def _private_bytes():
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
