"""Two processes that train with DistributedDataParallel, one of them or both watched."""

from __future__ import annotations

import subprocess
import sys
import textwrap

WORKER = """
    import os, sys
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel

    from varprobe.monitoring import Monitor

    store, rank = sys.argv[1], int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)

    def train(is_watched):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.AdamW(parallel.parameters())
        monitor = Monitor(parallel, every=2)
        if is_watched:
            monitor.start()
        torch.manual_seed(1 + rank)
        for _ in range(3):
            if is_watched:
                monitor.step()
            optimizer.zero_grad()
            with parallel.no_sync():
                parallel(torch.randn(5, 6)).square().mean().backward()
            parallel(torch.randn(5, 6)).square().mean().backward()
            optimizer.step()
        monitor.stop()
        return model.state_dict(), monitor

    bare, _ = train(False)
    for watchers in ((0, 1), (0,)):
        state, monitor = train(rank in watchers)
        assert all(torch.equal(state[name], bare[name]) for name in bare)
        if rank in watchers:
            records = monitor.recording.select(signal="gradient")
            found = {r.step: r.moments.numel for r in records if r.site.module == "0"}
            assert found == {0: 2 * 40, 2: 2 * 40}, found
    print("alike")
"""


def test_two_processes(tmp_path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(textwrap.dedent(WORKER), encoding="utf-8")
    processes = [
        subprocess.Popen(
            [sys.executable, str(worker), str(tmp_path / "store"), rank],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        results = [(process.communicate(timeout=120), process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for (output, errors), status in results:
        assert (output, status) == ("alike\n", 0), errors
