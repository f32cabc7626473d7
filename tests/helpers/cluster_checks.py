"""Checks of the files in cluster/, offline: each takes a file's text and gives what is wrong with it, a line each.

Ray's own check for cluster YAML, Kubernetes' own schemas for what is Kubernetes' (the package kubernetes-validate),
hadolint for images. Where a schema is not to be had (KubeRay, compose, Prometheus, Grafana), models of the parts that
are used, which know no other field.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import kubernetes_validate
import ray
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

import vigc
from vigc.platform.pipeline.metrics import exported_names

KUBERNETES = "1.34"
IMAGE = f"vigc:{vigc.__version__}"
SECRET = re.compile(
    r"\w*(?:password|secret|token|api_?key|access_?key)[\"']?\s*[:=]\s*[\"']?([^\s\"']+)"
    r"|\w+://[^/\s:@]+:([^@/\s]+)@|(AKIA[0-9A-Z]{16})",
    re.IGNORECASE,
)
HARMLESS = {"$", "...", "true", "false", "null", "secretKeyRef:"}  # "$": from the environment


def _faults(error: ValidationError) -> list[str]:
    return [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]


def _documents(text: str) -> tuple[list[Any], list[str]]:
    try:
        return [document for document in yaml.safe_load_all(text) if document], []
    except yaml.YAMLError as error:
        return [], [f"not YAML: {error}"]


def secrets(text: str) -> list[str]:
    """What looks like a literal secret; a reference to the environment or to a Secret does not."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") and "=" not in line:
            continue
        for match in SECRET.finditer(re.sub(r"\$(\w+|\{[^}]*\}|\([^)]*\))", "$", line)):
            if not HARMLESS.intersection(match.groups()):
                found.append(f"line {number} looks like a secret: {line.strip()}")
    return found


# Ray's cluster launcher


def ray_cluster(text: str) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    documents, problems = _documents(text)
    if problems or len(documents) != 1:
        return problems or ["one document is needed"]
    (config,) = documents
    try:
        validate_config(prepare_config(json.loads(json.dumps(config))))
    except Exception as error:  # noqa: BLE001  whatever Ray finds
        return [f"Ray: {str(error).splitlines()[0]}"]
    types: dict[str, Any] = config["available_node_types"]
    head = types[config["head_node_type"]]
    if config["docker"].get("image") != IMAGE:
        problems.append(f"the image is {config['docker'].get('image')}, not {IMAGE}")
    if head["resources"].get("CPU") != 0 or _is_spot(head):
        problems.append("the head takes tasks, or may be taken away")
    if sum(one.get("max_workers", 0) for one in types.values()) > config["max_workers"]:
        problems.append("max_workers is less than the types' own")
    on_gpus = [one for one in types.values() if one["resources"].get("GPU")]
    spot, steady = ([one for one in on_gpus if _is_spot(one) is is_spot] for is_spot in (True, False))
    if not spot or not steady:
        problems.append("no GPU type on spot, or none on demand to fall back to")
    elif min(one["priority"] for one in spot) <= max(one["priority"] for one in steady):
        problems.append("on demand is not behind spot")
    if not any(not one["resources"].get("GPU") and one["resources"].get("CPU") for one in types.values()):
        problems.append("no CPU workers")
    for name, one in types.items():
        node = one["node_config"]
        if not node.get("IamInstanceProfile") and not node.get("serviceAccounts"):
            problems.append(f"{name} has no role to reach storage with")
    for commands, words in (
        (
            "head_start_ray_commands",
            ("--head", "--autoscaling-config=~/ray_bootstrap_config.yaml", "--metrics-export-port"),
        ),
        ("worker_start_ray_commands", ("--address=$RAY_HEAD_IP:6379", "--metrics-export-port")),
    ):
        problems += [f"{commands} lack {word}" for word in words if word not in " ".join(config.get(commands, []))]
    if "--dashboard-host=0.0.0.0" in text:
        problems.append("the dashboard, which runs anybody's code, listens to everybody")
    return problems + secrets(text)


def _is_spot(node_type: dict[str, Any]) -> bool:
    node = node_type["node_config"]
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node.get("scheduling", {}).get("provisioningModel") == "SPOT"


# Kubernetes and KubeRay


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _is_flags(flags: dict[str, str]) -> dict[str, str]:
    from ray.scripts.scripts import start

    known = {option[2:] for parameter in start.params for option in parameter.opts if option.startswith("--")}
    if unknown := set(flags) - known:
        raise ValueError(f"`ray start` has no flag {', '.join(sorted(unknown))}")
    return flags


StartParams = Annotated[dict[str, str], AfterValidator(_is_flags)]


class Group(Strict):
    rayStartParams: StartParams  # noqa: N815
    template: dict[str, Any]


class WorkerGroup(Group):
    groupName: str  # noqa: N815
    replicas: int = Field(ge=0)
    minReplicas: int = Field(ge=0)  # noqa: N815
    maxReplicas: int = Field(ge=1)  # noqa: N815
    numOfHosts: int = Field(1, ge=1)  # noqa: N815
    idleTimeoutSeconds: int | None = Field(None, ge=0)  # noqa: N815


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"]
    upscalingMode: Literal["Default", "Aggressive", "Conservative"]  # noqa: N815
    idleTimeoutSeconds: int = Field(ge=0)  # noqa: N815
    resources: dict[str, Any]


class RayClusterSpec(Strict):
    rayVersion: str  # noqa: N815
    enableInTreeAutoscaling: Literal[True]  # noqa: N815
    autoscalerOptions: AutoscalerOptions  # noqa: N815
    headGroupSpec: Group  # noqa: N815
    workerGroupSpecs: list[WorkerGroup] = Field(min_length=1)  # noqa: N815


class RayJobSpec(Strict):
    entrypoint: str
    submissionMode: Literal["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]  # noqa: N815
    shutdownAfterJobFinishes: bool  # noqa: N815
    ttlSecondsAfterFinished: int = Field(ge=0)  # noqa: N815
    backoffLimit: int = Field(ge=0)  # noqa: N815
    activeDeadlineSeconds: int | None = Field(None, gt=0)  # noqa: N815
    submitterPodTemplate: dict[str, Any]  # noqa: N815
    rayClusterSpec: RayClusterSpec  # noqa: N815


class RayServiceSpec(Strict):
    serveConfigV2: str  # noqa: N815
    rayClusterConfig: RayClusterSpec  # noqa: N815


class Named(Strict):
    name: str


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Named
    spec: RayJobSpec


class RayService(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayService"]
    metadata: Named
    spec: RayServiceSpec


RAY_KINDS = TypeAdapter(Annotated[RayJob | RayService, Field(discriminator="kind")])


def manifests(text: str) -> list[str]:
    """Kubernetes' own kinds and KubeRay's."""
    documents, problems = _documents(text)
    for document in documents:
        if not str(document.get("apiVersion")).startswith("ray.io/"):
            problems += _by_schema(document)
            if template := document.get("spec", {}).get("template"):
                problems += _pod(template)
            continue
        try:
            found = RAY_KINDS.validate_python(document)
        except ValidationError as error:
            problems += _faults(error)
            continue
        cluster = found.spec.rayClusterSpec if isinstance(found, RayJob) else found.spec.rayClusterConfig
        problems += _ray_cluster_spec(cluster)
        if isinstance(found, RayJob):
            problems += [*_pod(found.spec.submitterPodTemplate), *_entrypoint(found.spec.entrypoint, documents)]
        else:
            problems += serve(found.spec.serveConfigV2)
    return problems + secrets(text)


def _by_schema(document: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{document.get('kind')}: {error.message}"]
    return []


def _ray_cluster_spec(cluster: RayClusterSpec) -> list[str]:
    problems = []
    if cluster.rayVersion != ray.__version__:
        problems.append(f"rayVersion {cluster.rayVersion}, but Ray here is {ray.__version__}")
    if cluster.headGroupSpec.rayStartParams.get("num-cpus") != "0":
        problems.append("the head takes tasks")
    for group in cluster.workerGroupSpecs:
        if not group.minReplicas <= group.replicas <= group.maxReplicas:
            problems.append(f"{group.groupName}: replicas are not between minReplicas and maxReplicas")
    names = Counter(group.groupName for group in cluster.workerGroupSpecs)
    problems += [f"two groups are called {name}" for name, number in names.items() if number > 1]
    for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs):
        problems += _pod(group.template)
        mounted = {m["mountPath"] for c in group.template["spec"]["containers"] for m in c.get("volumeMounts", [])}
        if "/dev/shm" not in mounted:
            problems.append("a pod has Kubernetes' 64 MB at /dev/shm, where Ray keeps its objects")
    return problems


def _pod(template: dict[str, Any]) -> list[str]:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template.get("spec")}
    problems = _by_schema(pod)
    if problems:
        return problems
    spec = template["spec"]
    if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
        problems.append("a pod may run as root")
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for one in spec["containers"]:
        if not re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", one["image"]) or one["image"].endswith(":latest"):
            problems.append(f"{one['image']} is not pinned")
        if one["image"].startswith("vigc:") and one["image"] != IMAGE:
            problems.append(f"{one['image']} is not {IMAGE}")
        if one.get("securityContext", {}).get("allowPrivilegeEscalation") is not False:
            problems.append(f"{one['name']} may get more rights than it has")
        if "memory" not in one.get("resources", {}).get("limits", {}):
            problems.append(f"{one['name']} has no memory limit")
        mounts = {mount["name"] for mount in one.get("volumeMounts", [])}
        claimed = mounts - volumes if "volumes" in spec else set()
        problems += [f"{one['name']} mounts {name}, which is no volume" for name in sorted(claimed)]
    return problems


def _entrypoint(entrypoint: str, documents: list[Any]) -> list[str]:
    """Its words against the command line, and the settings of a ConfigMap against GenerateConfig."""
    import typer.main

    from vigc.jobs.cli import app
    from vigc.jobs.generate.config import FLAGS

    program, verb, *words = entrypoint.split()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if program != "vigc" or verb not in commands:
        return [f"there is no `{program} {verb}`"]
    known = {option for parameter in commands[verb].params for option in parameter.opts}
    problems = [f"`vigc {verb}` has no {word}" for word in words if word.startswith("--") and word not in known]
    for document in documents:
        if document["kind"] == "ConfigMap":
            settings = yaml.safe_load(document["data"]["run.yaml"])
            problems += [f"run.yaml: `vigc generate` has no {name}" for name in set(settings) - set(FLAGS)]
    return problems


def serve(text: str) -> list[str]:
    """What Ray Serve deploys; the arguments are those of our application."""
    from ray.serve.schema import ServeDeploySchema

    from vigc.serve.settings import Settings

    config = yaml.safe_load(text)
    try:
        ServeDeploySchema.model_validate(config)
        for application in config["applications"]:
            Settings.model_validate(application.get("args", {}))
    except ValidationError as error:
        return _faults(error)
    problems = [f"{one['import_path']} is not ours" for one in config["applications"] if not _is_ours(one)]
    # The schema itself lets pass what it does not know at the top.
    return problems + [f"Ray Serve has no {name}" for name in set(config) - set(ServeDeploySchema.model_fields)]


def _is_ours(application: dict[str, Any]) -> bool:
    module, _, name = application["import_path"].partition(":")
    return find_spec(module) is not None and hasattr(import_module(module), name)


# Compose


class Health(Strict):
    test: list[str]
    interval: str
    retries: int


class ComposeService(Strict):
    image: str = Field(pattern=r":[\w.-]*\d[\w.-]*$")
    build: str | None = None
    environment: dict[str, str | None] = {}
    volumes: list[str] = []
    ports: list[
        Annotated[str, Field(pattern=r"^127\.0\.0\.1:\d+:\d+$")]
    ] = []  # everybody's only by somebody's decision
    healthcheck: Health | None = None
    depends_on: dict[str, dict[Literal["condition"], Literal["service_healthy"]]] = {}
    restart: Literal["unless-stopped", "always", "no"]


class Compose(Strict):
    services: dict[str, ComposeService]
    volumes: dict[str, None]


def compose(text: str) -> list[str]:
    documents, problems = _documents(text)
    if problems:
        return problems
    try:
        found = Compose.model_validate(documents[0])
    except ValidationError as error:
        return _faults(error) + secrets(text)
    for name, service in found.services.items():
        for other in service.depends_on:
            if other not in found.services or found.services[other].healthcheck is None:
                problems.append(f"{name} waits for {other}, which never says that it is healthy")
        kept = {volume.partition(":")[0] for volume in service.volumes}
        problems += [f"{name} mounts {volume}, which is no volume" for volume in kept - set(found.volumes)]
        for variable, value in service.environment.items():
            if "PASSWORD" in (value or "") and ":?" not in str(value):
                problems.append(f"{name}: {variable} may be empty")
    return problems + secrets(text)


# Prometheus


class Discovery(Strict):
    url: str = Field(pattern=r"^https?://[\w.:-]+/api/prometheus/sd$")
    refresh_interval: str = Field(pattern=r"^\d+[smh]$")


class Role(Strict):
    role: Literal["pod", "node", "service", "endpoints", "endpointslice", "ingress"]


def _is_pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return text


class Relabel(Strict):
    source_labels: list[Annotated[str, Field(pattern=r"^__meta_kubernetes_\w+$")]]
    regex: Annotated[str, AfterValidator(_is_pattern)] = "(.*)"
    target_label: str | None = None
    action: Literal["keep", "drop", "replace", "labelmap"]


class Scrape(Strict):
    job_name: str
    http_sd_configs: list[Discovery] = []
    kubernetes_sd_configs: list[Role] = []
    relabel_configs: list[Relabel] = []


class Global(Strict):
    scrape_interval: str = Field(pattern=r"^\d+[smh]$")
    evaluation_interval: str = Field(pattern=r"^\d+[smh]$")


class Prometheus(Strict):
    global_: Global = Field(alias="global")
    scrape_configs: list[Scrape]


def prometheus(text: str) -> list[str]:
    documents, problems = _documents(text)
    if problems:
        return problems
    try:
        found = Prometheus.model_validate(documents[0])
    except ValidationError as error:
        return _faults(error)
    for job in found.scrape_configs:
        if not job.http_sd_configs and not job.kubernetes_sd_configs:
            problems.append(f"{job.job_name} finds nothing to scrape")
        if any(one.action == "replace" and not one.target_label for one in job.relabel_configs):
            problems.append(f"{job.job_name}: a label is replaced, but which?")
    names = Counter(job.job_name for job in found.scrape_configs)
    return problems + [f"two jobs are called {name}" for name, number in names.items() if number > 1]


# Grafana

SHOWN = {  # what somebody who watches a run must see, and where from
    "Images per second": "ray_vigc_images_total",
    "Tokens per second": "ray_vigc_tokens_total",
    "Slots in use": "ray_vigc_slots_in_use",
    "Queue": "ray_vigc_requests_waiting",
    "Failed images by reason": "ray_vigc_images_failed_total",
    "ETA": "ray_vigc_seconds_left",
    "Cost so far": "ray_vigc_cost",
}


def dashboard(text: str) -> list[str]:
    try:
        found = json.loads(text)
        panels, variables = found["panels"], {one["name"] for one in found["templating"]["list"]}
        return [*_panels(panels), *_queries(panels), *_variables(text, variables)]
    except ValueError as error:
        return [f"not JSON: {error}"]
    except KeyError as error:
        return [f"there is no {error}"]


def metrics_in(expression: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", expression))


def _panels(panels: list[dict[str, Any]]) -> Iterator[str]:
    taken: dict[tuple[int, int], str] = {}
    for number, times in Counter(panel["id"] for panel in panels).items():
        if times > 1:
            yield f"two panels have the id {number}"
    for panel in panels:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']} is wider than the page"
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            if taken.setdefault(cell, panel["title"]) != panel["title"]:
                yield f"{panel['title']} lies upon {taken[cell]}"
                break
    titles = {panel["title"] for panel in panels}
    yield from (f"nothing shows: {title}" for title in SHOWN if title not in titles)


def _queries(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        asked: set[str] = set()
        for target in panel["targets"]:
            expression = target["expr"]
            asked |= metrics_in(expression)
            if expression.count("(") != expression.count(")") or expression.count("{") != expression.count("}"):
                yield f"{panel['title']}: brackets do not match in {expression}"
            for name in metrics_in(expression):
                is_rate = re.search(rf"\b(rate|increase)\({name}{{[^}}]*}}\[", expression) is not None
                if is_rate != name.endswith("_total"):
                    yield f"{panel['title']}: {name} is {'not ' if is_rate else ''}a counter"
        yield from (f"{panel['title']}: nothing exports {name}" for name in sorted(asked - exported_names()))
        wanted = SHOWN.get(panel["title"])
        if wanted and wanted not in asked:
            yield f"{panel['title']} does not show {wanted}"


def _variables(text: str, variables: Iterable[str]) -> Iterator[str]:
    used = {*re.findall(r"\$\{(\w+)\}", text), *re.findall(r"\$(\w+)", text)}
    yield from (f"${name} is no variable of the dashboard" for name in sorted(used - set(variables)))


# Images


def dockerfile(text: str) -> list[str]:
    """What hadolint says, and our own rules."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--format", "json", "-"], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    if not done.stdout:
        return [done.stderr.strip()]
    problems = [f"line {found['line']}: {found['code']} {found['message']}" for found in json.loads(done.stdout)]
    last_stage = text[text.rindex("\nFROM ") if "\nFROM " in text else 0 :]
    users = re.findall(r"^USER (\S+)", last_stage, re.MULTILINE)
    if not users or not re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1]):
        problems.append("the image runs as root, or as a user without a number, which runAsNonRoot cannot check")
    for wanted, version in (("ray[", ray.__version__),):
        if wanted in text and f"=={version}" not in text:
            problems.append(f"Ray is not {version}, which the cluster's other nodes have")
    for line in re.findall(r"pip install .*", text):
        if "-c constraints.txt" not in line and "==" not in line:
            problems.append(f"not pinned: {line}")
    return problems + secrets(text)
