"""Hand the DAG to Kubeflow Pipelines: `python -m pipelines.submit run --host URL --wait`.

Three actions: `run` starts a run, `upload` registers a version of the pipeline that can be started
from Kubeflow's pages, `schedule` starts a run again and again. The bearer token, where the cluster
wants one, comes by the variable TOKEN: a command line can be seen by other users of the machine.
"""

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
from kfp_server_api.exceptions import ApiException
from urllib3.exceptions import HTTPError

from components.step import STEPS, clear_errors
from mixprint.errors import ConfigError, DataError, MixprintError
from mixprint.fingerprint import file_sha256
from mixprint.log import setup_logging
from mixprint.schema import parse_json
from pipelines.arguments import default_name, run_arguments
from pipelines.cluster import Cluster
from pipelines.compile import SOURCE, cluster_parser, compile_pipeline, read_inputs

if TYPE_CHECKING:
    from kfp import Client

log = logging.getLogger("mixprint.pipelines")

PIPELINE = EXPERIMENT = "mixprint"
DESCRIPTION = "Learn what a mix sounds like, and give one song the mix of another."
TOKEN_VARIABLE = "TOKEN"
HEALTH_PATH = "/apis/v2beta1/healthz"
HEALTH_TIMEOUT_S = 10.0
POLL_S = 15.0
# So many looks at a run may fail one after the other: servers restart, networks break.
PATIENCE = 20
# Of HTTP: to ask again would not help.
LASTING = frozenset({400, 401, 403, 404})
FAILED_STATES = frozenset({"FAILED", "CANCELED", "SKIPPED"})
# Characters of a server's message that are shown.
SHOWN = 300
CRON_FIELDS = 6


class ClusterError(MixprintError):
    """The cluster cannot be reached, refuses what it is asked, or a run on it has failed."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """Kubeflow Pipelines as a user reaches it.

    Attributes:
        host: its address, with http:// or https://.
        namespace: of the user, in a deployment for many; empty: the only one.
        token: bearer token; empty: none is needed.
    """

    host: str
    namespace: str
    token: str

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"Server({self.host!r}, {self.namespace!r})"

    @property
    def url(self) -> str:
        """The address without a slash at its end."""
        return self.host.rstrip("/")

    def link(self, kind: str, number: str) -> str:
        """Return the address of a page of Kubeflow."""
        return f"{self.url}/#/{kind}/details/{number}"

    def check(self) -> None:
        """Ask whether it is there and lets us in.

        Raises:
            ConfigError: the address is none.
            ClusterError: it is not there, or does not let us in.
        """
        if not self.host.startswith(("http://", "https://")):
            raise ConfigError(f"KFP_HOST: expected http://... or https://..., found {self.host!r}")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with requests.Session() as session:
            # As KFP's own client, which knows nothing of proxies.
            session.trust_env = False
            try:
                answer = session.get(
                    self.url + HEALTH_PATH,
                    headers=headers,
                    timeout=HEALTH_TIMEOUT_S,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                raise ClusterError(
                    f"{self.url}: expected Kubeflow Pipelines, could not connect "
                    f"({type(error).__name__}); look at KFP_HOST, and whether a port is forwarded"
                ) from error
        if answer.status_code != requests.codes.ok:
            raise ClusterError(self.refusal(answer.status_code, answer.text))

    def refusal(self, status: int, text: str) -> str:
        """Say in a sentence what a status other than success means."""
        if status in {301, 302, 303, 307, 308, 401, 403}:
            had = "it does not accept the TOKEN" if self.token else "there is no TOKEN"
            return (
                f"{self.url}: expected to be let in, got status {status}: {had}; set the variable "
                "TOKEN to a valid token, and NAMESPACE to yours"
            )
        if status == requests.codes.not_found:
            return (
                f"{self.url}: expected the API of Kubeflow Pipelines 2, got status 404: KFP_HOST "
                "must be the address before /apis, in a full Kubeflow with /pipeline at its end"
            )
        return f"{self.url}: expected success, got status {status}: {_message(text)}"

    def client(self) -> "Client":
        """Make KFP's client, after a check; its packages take seconds to import.

        Raises:
            ConfigError: see `check`.
            ClusterError: see `check`.
        """
        self.check()
        from kfp import Client

        with warnings.catch_warnings():
            # That it works with KFP 2 alone.
            warnings.simplefilter("ignore", FutureWarning)
            return Client(
                host=self.url,
                namespace=self.namespace or "kubeflow",
                existing_token=self.token or None,
            )

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the client's errors into one sentence."""
        try:
            yield
        except ApiException as error:
            if error.status:
                text = str(error.body or error.reason)
                raise ClusterError(self.refusal(error.status, text)) from error
            raise ClusterError(f"{self.url}: the connection broke: {error.reason}") from error
        except HTTPError as error:
            raise ClusterError(
                f"{self.url}: the connection broke: {type(error).__name__}"
            ) from error


@dataclass(frozen=True, kw_only=True)
class Job:
    """Settings of a run that is handed over.

    Attributes:
        name: of the run.
        path: the compiled pipeline.
        arguments: values of its parameters.
    """

    name: str
    path: Path
    arguments: Mapping[str, Any]


def start(server: Server, job: Job) -> str:
    """Start a run.

    Returns:
        its id.

    Raises:
        ClusterError: the server refuses.
    """
    client = server.client()
    with server.errors():
        started = client.create_run_from_pipeline_package(
            str(job.path),
            arguments=dict(job.arguments),
            run_name=f"{PIPELINE}-{job.name}",
            experiment_name=EXPERIMENT,
            namespace=server.namespace or None,
        )
    run_id: str = started.run_id
    log.info("started %s", server.link("runs", run_id))
    return run_id


def wait(server: Server, run_id: str, *, poll_s: float = POLL_S) -> None:
    """Wait until a run has ended well.

    Args:
        server: where it runs.
        run_id: its id.
        poll_s: time between two looks.

    Raises:
        ClusterError: it has failed or was cancelled, or the server cannot be asked any more.
    """
    client = server.client()
    link = server.link("runs", run_id)
    failures, shown = 0, ""
    while True:
        try:
            with server.errors():
                run = client.get_run(run_id)
            failures = 0
        except ClusterError as error:
            failures += 1
            cause = error.__cause__
            status = cause.status if isinstance(cause, ApiException) else None
            if status in LASTING or failures >= PATIENCE:
                raise ClusterError(f"{error}; the run goes on: {link}") from error
            log.warning("%s; looking again", error)
            time.sleep(poll_s)
            continue
        if run.state == "SUCCEEDED":
            log.info("the run has succeeded: %s", link)
            return
        if run.state in FAILED_STATES:
            raise ClusterError(f"the run has ended as {run.state}{_blame(run)}: {link}")
        told = f"{run.state}, at work: {', '.join(_steps(run, 'RUNNING')) or 'nothing yet'}"
        if told != shown:
            log.info("%s", told)
            shown = told
        time.sleep(poll_s)


def upload(server: Server, job: Job) -> str:
    """Register the pipeline, or a version of it if it is there.

    A version is named after mixprint's version and the pipeline's content, so that the same one is
    not registered twice.

    Returns:
        name of the version.

    Raises:
        ClusterError: the server refuses.
    """
    client = server.client()
    name = f"{version('mixprint')}-{file_sha256(job.path)[:12]}"
    with server.errors():
        pipeline_id = client.get_pipeline_id(PIPELINE)
        if pipeline_id is None:
            made = client.upload_pipeline(
                str(job.path), PIPELINE, DESCRIPTION, server.namespace or None
            )
            pipeline_id = made.pipeline_id
        known = client.list_pipeline_versions(pipeline_id, page_size=100, sort_by="created_at desc")
        if name in {each.display_name for each in known.pipeline_versions or []}:
            log.info("version %s is there already", name)
        else:
            client.upload_pipeline_version(str(job.path), name, pipeline_id=pipeline_id)
            log.info("registered version %s", name)
    log.info("start it from %s", server.link("pipelines", pipeline_id))
    return name


def schedule(server: Server, job: Job, cron: str) -> str:
    """Start a run again and again.

    Args:
        server: where.
        job: what.
        cron: five fields as cron has them, or six with the seconds first.

    Returns:
        id of the recurring run.

    Raises:
        ConfigError: cron has another number of fields.
        ClusterError: there is one of this name, or the server refuses.
    """
    fields = cron.split()
    if len(fields) == CRON_FIELDS - 1:
        fields.insert(0, "0")
    if len(fields) != CRON_FIELDS:
        raise ConfigError(
            f"CRON: expected five fields as '0 3 * * 1', or six with the seconds first, found "
            f"{cron!r}"
        )
    client = server.client()
    name = f"{PIPELINE}-{job.name}"
    equal = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    with server.errors():
        experiment = client.create_experiment(EXPERIMENT, namespace=server.namespace or None)
        found = client.list_recurring_runs(
            experiment_id=experiment.experiment_id, filter=json.dumps({"predicates": [equal]})
        )
        if found.recurring_runs:
            link = server.link("recurringrun", found.recurring_runs[0].recurring_run_id)
            raise ClusterError(
                f"{name}: expected no recurring run of this name, found one: delete it there, or "
                f"give another NAME: {link}"
            )
        made = client.create_recurring_run(
            experiment_id=experiment.experiment_id,
            job_name=name,
            cron_expression=" ".join(fields),
            # One at a time, for they share a root; what was missed is not made up for.
            max_concurrency=1,
            no_catchup=True,
            params=dict(job.arguments),
            pipeline_package_path=str(job.path),
        )
    recurring_id: str = made.recurring_run_id
    log.info("scheduled %s", server.link("recurringrun", recurring_id))
    return recurring_id


def _steps(run: Any, state: str) -> list[str]:
    """Name the tasks of a run in a state: the steps, or what KFP has beside them if none is."""
    tasks = (run.run_details.task_details if run.run_details else None) or []
    names = list(dict.fromkeys(task.display_name for task in tasks if task.state == state))
    return [name for name in names if name in STEPS] or names


def _blame(run: Any) -> str:
    """Say which steps have failed, as far as the server tells."""
    names = _steps(run, "FAILED")
    told = f", because of {', '.join(names)}" if names else ""
    if run.error is not None and run.error.message:
        told += f" ({run.error.message[:SHOWN]})"
    return told


def _message(text: str) -> str:
    """Find the sentence in a server's answer."""
    try:
        found = parse_json(text, "the server's answer")
    except DataError:
        return text[:SHOWN]
    if isinstance(found, dict):
        text = str(found.get("message") or found.get("error") or text)
    return text[:SHOWN]


def read_job(
    args: argparse.Namespace, cluster: Cluster, params: Mapping[str, Mapping[str, Any]], path: Path
) -> Job:
    """Compile the pipeline and make the arguments of a run.

    Raises:
        ConfigError: songs or run lie where the pods do not see them.
    """
    name = args.name or default_name(args.source, args.profile)
    root = args.root or f"{cluster.folders.runs}/{name}"
    locations = args.data or [cluster.folders.songs]
    cluster.check_shared("ROOT", root)
    for location in locations:
        cluster.check_shared("DATA", location)
    compile_pipeline(path, cluster, params, name=name)
    arguments = run_arguments(
        root=root, source=args.source, locations=locations, name=name, params=params
    )
    return Job(name=name, path=path, arguments=arguments)


def main() -> None:
    """Read the command line and do it."""
    parser = cluster_parser(__doc__)
    parser.add_argument("action", choices=["run", "upload", "schedule"])
    parser.add_argument("--host", required=True, help="address of Kubeflow Pipelines")
    parser.add_argument("--namespace", default="", help="in a deployment for many users")
    parser.add_argument("--source", default=SOURCE)
    parser.add_argument("--data", action="append", help="folder in a volume; twice for pairs")
    parser.add_argument("--root", default="", help="folder of the run, in a volume")
    parser.add_argument("--name", default="", help="name of the run")
    parser.add_argument("--wait", action="store_true", help="until the run has ended")
    parser.add_argument("--cron", default="", help="of schedule")
    args = parser.parse_args()
    setup_logging()
    server = Server(
        host=args.host, namespace=args.namespace, token=os.environ.get(TOKEN_VARIABLE, "")
    )
    cluster, params = read_inputs(args)
    with tempfile.TemporaryDirectory() as folder:
        job = read_job(args, cluster, params, Path(folder) / f"{PIPELINE}.yaml")
        if args.action == "upload":
            upload(server, job)
        elif args.action == "schedule":
            schedule(server, job, args.cron)
        else:
            run_id = start(server, job)
            if args.wait:
                wait(server, run_id)


if __name__ == "__main__":
    with clear_errors():
        main()
