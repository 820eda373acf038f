"""``nashloop bench live``: live prompts by many clients while policies are swapped."""

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from annotate_app.commands.options import DATA_DIR, DataOption, DeviceOption, JsonOption, note
from storage.errors import UserError


def live(
    data: DataOption = DATA_DIR,
    clients: Annotated[int, typer.Option("--clients", min=1, max=500, help="Clients that ask without pause.")] = 32,
    seconds: Annotated[float, typer.Option("--seconds", min=1, help="How long.")] = 60,
    swap_every: Annotated[float, typer.Option("--swap-every", min=0.1, help="Seconds until another policy takes over.")] = 5,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Policies of a data directory swapped under load: failed requests, answers by the wrong policy, first token, swap time.

    Starts a server of its own: vLLM where it is installed (or $NASHLOOP_VLLM_PYTHON has it), else Nashloop's.
    """
    from annotate_app.bench_live import swap_under_load, table
    from annotate_app.bootstrap import model_location
    from annotate_app.policy_server import LocalServer, PolicyServerDown, vllm_python

    adapters = {path.parent.name: path.resolve() for path in sorted(data.glob("artifacts/*-round/adapter"))}
    if len(adapters) < 2:
        raise UserError(
            f"{data} has {len(adapters)} policies with an adapter; swapping needs 2. Run another round, or name --data."
        )
    base = json.loads((next(iter(adapters.values())) / "adapter_config.json").read_text())["base_model_name_or_path"]
    with tempfile.TemporaryDirectory() as logs:
        source = LocalServer(model_location(base), log=Path(logs) / "server.log", device=device)
        try:
            note(f"Starting {'vLLM' if vllm_python() else 'the policy server'} ...")
            server = source.ensure()
            note(f"{clients} clients for {seconds:.0f} s ...")
            load = asyncio.run(swap_under_load(server, adapters, num_clients=clients, seconds=seconds, swap_every=swap_every))
        except PolicyServerDown as error:
            raise UserError(f"{error}. Its last words: {(Path(logs) / 'server.log').read_text()[-400:]}") from error
        finally:
            source.close()
    if as_json:
        print(json.dumps(load.summary()))
        return
    for name, figure in table(load):
        print(f"{name:<16} {figure}")
