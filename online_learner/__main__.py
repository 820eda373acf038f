"""python -m online_learner: run a job directory, compare preference models, audit votes, list update rules, play games.

The entry point only parses and dispatches: torch is imported by the command that needs it, after its arguments were read.
"""

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from online_learner.serving import command as serve_command
from storage.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 2 with one sentence on standard error where a person can fix the cause."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    argv = sys.argv[1:] if argv is None else argv
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        args = _parser(argv).parse_args(argv)
        return args.run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m online_learner", description="The learner of Nashloop.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run or resume a sealed job directory")
    run.add_argument("job_dir", type=Path, metavar="JOB_DIR", help="a directory under jobs/")
    run.add_argument("--out", type=Path, metavar="DIR", help="where the artifact appears (default: artifacts/ beside jobs/)")
    run.add_argument("--warm", metavar="SOCKET", help="let the warm process that listens there run it, if there is one")
    run.set_defaults(run=_run)
    warm = commands.add_parser("warm", help="wait for jobs with everything imported, until standard input closes")
    warm.add_argument("--listen", type=int, required=True, metavar="FD", help="an open, listening Unix socket")
    warm.set_defaults(run=_warm)
    serve = commands.add_parser("serve", help="answer live prompts with any policy: OpenAI's routes")
    serve_command.add_arguments(serve)
    serve.set_defaults(run=serve_command.run)
    rules = commands.add_parser("rules", help="list the update rules")
    rules.add_argument("--json", action="store_true", help="one JSON list on standard output")
    rules.set_defaults(run=_rules)
    audit = commands.add_parser("audit", help="what votes alone say about cycles")
    audit.add_argument("file", type=Path, metavar="FILE", help="Parquet: prompt_id, response_a_id, response_b_id, ...")
    audit.add_argument("--seed", type=int, default=0, help="of simulated votes (default: 0)")
    audit.set_defaults(run=_audit)
    fit = commands.add_parser("fit", help="compare preference models on files of judged pairs")
    if argv[:1] == ["fit"]:  # its options name the models, which needs torch
        from online_learner import fit_command

        fit_command.add_arguments(fit)
        fit.set_defaults(run=fit_command.run)
    games = commands.add_parser("games", help="play update rules on tabular games")
    if argv[:1] == ["games"]:
        from online_learner import games_command

        games_command.add_arguments(games)
    average = commands.add_parser("average", help="one adapter that is the mean of several, such as those of the last rounds")
    if argv[:1] == ["average"]:
        from online_learner import average_command

        average_command.add_arguments(average)
        average.set_defaults(run=average_command.run)
    bench = commands.add_parser("bench-learner", help="the policy update against another trainer on the same work")
    if argv[:1] == ["bench-learner"]:
        from online_learner import bench_learner

        bench_learner.add_arguments(bench)
        bench.set_defaults(run=bench_learner.run)
    return parser


def _run(args: argparse.Namespace) -> int:
    if not args.job_dir.is_dir():
        raise UserError(f"The job directory {args.job_dir} does not exist. Name one under jobs/.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # torchrun says so
        from online_learner.jobs import open_job
        from online_learner.policy.processes import run_together

        return run_together(lambda: _run_here(args.job_dir, args.out), lambda: open_job(args.job_dir, args.out).base)
    if args.warm:
        from online_learner.warm import run_in_warm_process

        code = run_in_warm_process(args.warm, args.job_dir)
        if code is not None:
            return code
    return _run_here(args.job_dir, args.out)


def _run_here(job_dir: Path, out: Path | None = None) -> int:
    from online_learner.round import run_job

    print(run_job(job_dir, out))
    return 0


def _warm(args: argparse.Namespace) -> int:
    import socket

    from online_learner.warm import serve

    return serve(socket.socket(fileno=args.listen), _run_here)


def _rules(args: argparse.Namespace) -> int:
    from online_learner.update_rules import list_rules

    rules = list_rules()
    if args.json:
        print(json.dumps(rules))
    else:
        for rule in rules:
            print(f"{rule['name']:<20} {rule['summary']}  [{rule['source']}]")
            print("".join(f"{'':<21}needs {words}\n" for words in rule["needs"].values()), end="")
    return 0


def _audit(args: argparse.Namespace) -> int:
    from online_learner import audit_command

    return audit_command.run(args.file, args.seed)


if __name__ == "__main__":
    sys.exit(main())
