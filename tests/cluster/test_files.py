"""The files in cluster/ are what Ray, Kubernetes, hadolint and our own code take, and every check can say no.

Ray checks its cluster YAML and what Serve deploys, the package kubernetes-validate has Kubernetes' own schemas, and
hadolint reads images. Of KubeRay's objects the names of the fields are known here; compose, Prometheus and Grafana
have no schema that could be asked offline, so their files are only read.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray
import typer.main
import yaml
from pydantic import ValidationError

import vigc
from vigc.jobs.cli import app
from vigc.jobs.generate.config import GenerateConfig
from vigc.platform.pipeline.metrics import exported_names
from vigc.serve.settings import ServeSettings

CLUSTER = Path(__file__).parents[2] / "cluster"
KUBERNETES = "1.34"
SECRET = re.compile(
    r"(password|secret|token|api_?key|access_?key)[\"']?\s*[:=]\s*[\"']?(?!true|false|null|secretKeyRef|\$)[^\s\"'.]"
    r"|\w+://[^/\s:@]+:[^@/\s$]+@|AKIA[0-9A-Z]{16}",
    re.IGNORECASE,
)
FROM_ENVIRONMENT = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")
# KubeRay's fields that these files use, by the place in the object.
RAY_CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
RAY_JOB = {
    *("entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"),
    *("submitterPodTemplate", "rayClusterSpec"),
}
RAY_SERVICE = {"serveConfigV2", "rayClusterConfig"}
HEAD_GROUP = {"rayStartParams", "template"}
WORKER_GROUP = HEAD_GROUP | {"groupName", "replicas", "minReplicas", "maxReplicas"}
AUTOSCALER = {"version", "upscalingMode", "idleTimeoutSeconds", "resources"}


def other_names(place: str, found: dict[str, Any], known: set[str]) -> list[str]:
    return [f"{place}: {name} is unknown or lacking" for name in sorted(set(found) ^ known)]


def ray_cluster(text: str) -> list[str]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(yaml.safe_load(text)))
    except Exception as error:  # noqa: BLE001  whatever Ray finds
        return [f"Ray: {str(error).splitlines()[0]}"]
    return []


def kubernetes(document: dict[str, Any]) -> list[str]:
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{document.get('kind')}: {error.message}"]
    return []


def pod(template: dict[str, Any]) -> list[str]:
    return kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": template.get("spec")})


def manifests(text: str) -> list[str]:
    """Kubernetes' own kinds and KubeRay's."""
    problems = []
    for document in yaml.safe_load_all(text):
        spec = document.get("spec", {})
        if document["kind"] == "RayJob":
            problems += other_names("RayJob", spec, RAY_JOB) or [
                *pod(spec["submitterPodTemplate"]),
                *command(spec["entrypoint"]),
                *ray_cluster_spec(spec["rayClusterSpec"]),
            ]
        elif document["kind"] == "RayService":
            problems += other_names("RayService", spec, RAY_SERVICE) or [
                *serve(spec["serveConfigV2"]),
                *ray_cluster_spec(spec["rayClusterConfig"]),
            ]
        else:
            problems += kubernetes(document)
            if run := document.get("data", {}).get("run.yaml"):
                known = set(GenerateConfig.flags())
                problems += [f"run.yaml: there is no {name}" for name in set(yaml.safe_load(run)) - known]
    return problems


def ray_cluster_spec(spec: dict[str, Any]) -> list[str]:
    from ray.scripts.scripts import start

    if problems := other_names("the cluster", spec, RAY_CLUSTER):
        return problems
    problems = other_names("autoscalerOptions", spec["autoscalerOptions"], AUTOSCALER)
    if spec["rayVersion"] != ray.__version__:
        problems.append(f"rayVersion {spec['rayVersion']}, but Ray here is {ray.__version__}")
    flags = {option for parameter in start.params for option in parameter.opts}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        problems += other_names("a group", group, WORKER_GROUP if "groupName" in group else HEAD_GROUP)
        problems += [f"ray start has no --{flag}" for flag in group["rayStartParams"] if f"--{flag}" not in flags]
        problems += pod(group["template"])
    return problems


def command(entrypoint: str) -> list[str]:
    program, verb, *words = entrypoint.split()
    if program != "vigc" or not options(verb):
        return [f"there is no `{program} {verb}`"]
    return [f"`vigc {verb}` has no {word}" for word in words if word.startswith("--") and word not in options(verb)]


def options(verb: str) -> set[str]:
    """What a verb may be given; nothing where there is no such verb."""
    command = typer.main.get_command(app).commands.get(verb)  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts} if command else set()


def serve(text: str) -> list[str]:
    """What Ray Serve deploys; the arguments are those of our application."""
    application, problems = application_of(text, lambda application: ServeSettings.model_validate(application["args"]))
    if application is None:
        return problems
    module, _, name = application["import_path"].partition(":")
    return problems if hasattr(import_module(module), name) else [*problems, f"{module} has no {name}"]


def serve_llm(text: str) -> list[str]:
    """What Ray Serve deploys; the arguments are those of ray.serve.llm, which can be imported beside vLLM only."""
    from ray.llm._internal.serve.core.configs.llm_config import LLMConfig
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import DeploymentSchema

    unknown: list[str] = []

    def check(application: dict[str, Any]) -> None:
        unknown.extend(other_names("args", application["args"], {"llm_configs"}))
        for one in application["args"]["llm_configs"]:
            LLMConfig.model_validate(one)
            deployment = one["deployment_config"]
            scaling = deployment["autoscaling_config"]
            AutoscalingConfig.model_validate(scaling)
            for given, schema in ((scaling, AutoscalingConfig), (deployment, DeploymentSchema)):
                unknown.extend(f"{schema.__name__} has no {name}" for name in set(given) - set(schema.model_fields))

    application, problems = application_of(text, check)
    if application is not None and application["import_path"] != "ray.serve.llm:build_openai_app":
        unknown.append("another import_path")
    return problems + unknown


def application_of(text: str, check: Callable[[dict[str, Any]], object]) -> tuple[dict[str, Any] | None, list[str]]:
    """The only application of a file for Ray Serve, and what is wrong in the file; None where it cannot be read."""
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(text)
    try:
        ServeDeploySchema.model_validate(config)
        (application,) = config["applications"]
        check(application)
    except ValidationError as error:
        return None, [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
    # Serve's schema lets pass what it does not know at the top.
    return application, [f"Ray Serve has no {name}" for name in set(config) - set(ServeDeploySchema.model_fields)]


def dockerfile(text: str) -> list[str]:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, "--format", "json", "-"], input=text, capture_output=True, text=True)
    if not done.stdout:
        return [done.stderr.strip()]
    problems = [f"line {found['line']}: {found['code']} {found['message']}" for found in json.loads(done.stdout)]
    if not re.search(r"\nUSER \d+:\d+\n(?!.*\nFROM )", text, re.DOTALL):  # runAsNonRoot cannot check a name
        problems.append("the image has no user with a number")
    if re.search(r'"ray\[', text) and f"=={ray.__version__}" not in text:
        problems.append(f"Ray is not {ray.__version__}, which the cluster's other nodes have")
    return problems


def dashboard(text: str) -> list[str]:
    json.loads(text)
    named = set(re.findall(r"ray_vigc_\w+", text))
    return [f"shown or exported, and not both: {name}" for name in named ^ exported_names()]


def readable(text: str) -> list[str]:
    yaml.safe_load(text)
    return []


CHECKS: dict[str, Callable[[str], list[str]]] = {
    "aws.yaml": ray_cluster,
    "gcp.yaml": ray_cluster,
    "kuberay/rayjob-generate.yaml": manifests,
    "kuberay/rayjob-train.yaml": manifests,
    "kuberay/rayservice.yaml": manifests,
    "serve.yaml": serve,
    "llm.yaml": serve_llm,
    "mlflow/kubernetes.yaml": manifests,
    "mlflow/compose.yaml": readable,
    "mlflow/Dockerfile": dockerfile,
    "prometheus.yml": readable,
    "grafana.json": dashboard,
    "Dockerfile": dockerfile,
    "Dockerfile.cpu": dockerfile,
}


def problems_of(file: str, text: str) -> list[str]:
    """What the file's own check says; and anywhere, another image of ours and what looks like a secret."""
    other = {image for image in re.findall(r"image: (vigc:\S+)", text) if image != f"vigc:{vigc.__version__}"}
    lines = FROM_ENVIRONMENT.sub("$", text).splitlines()
    secrets = [f"line {number} looks like a secret" for number, line in enumerate(lines, 1) if SECRET.search(line)]
    return [*CHECKS[file](text), *(f"{image} is not this version's" for image in other), *secrets]


def test_every_file_has_a_check_and_passes_it() -> None:
    there = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()} - {"README.md"}
    assert there == set(CHECKS)
    found = {file: problems_of(file, (CLUSTER / file).read_text(encoding="utf-8")) for file in CHECKS}
    assert not any(found.values()), found


# A text that is replaced once, by what, and a word of the complaint.
FAULTS = [
    ("aws.yaml", "max_workers: 20\n", "max_workers: 20\nmax_nodes: 3\n", "Ray:"),
    ("aws.yaml", "vigc:0.1.0\n  container", "vigc:latest\n  container", "version"),
    ("aws.yaml", "ssh_user: ubuntu", "ssh_user: ubuntu  # AKIAABCDEFGHIJKLMNOP = mine", "secret"),
    ("gcp.yaml", "resources: {CPU: 16}", "resources: {CPU: all}", "Ray:"),
    ("kuberay/rayjob-generate.yaml", "  backoffLimit: 10\n", "  backOffLimit: 10\n", "backOffLimit"),
    ("kuberay/rayjob-generate.yaml", "rayVersion: 2.60.0", "rayVersion: 2.40.0", "rayVersion"),
    ("kuberay/rayjob-generate.yaml", "sizeLimit:", "size:", "Pod"),
    ("kuberay/rayjob-generate.yaml", 'num-cpus: "0"', 'number-cpus: "0"', "--number-cpus"),
    ("kuberay/rayjob-generate.yaml", "entrypoint: vigc generate", "entrypoint: vigc generat", "there is no"),
    ("kuberay/rayjob-generate.yaml", "    actors: 1:32", "    actor: 1:32", "no actor"),
    ("kuberay/rayjob-train.yaml", "--workers", "--worker", "has no --worker"),
    ("kuberay/rayjob-train.yaml", "[ReadWriteMany]", "ReadWriteMany", "PersistentVolumeClaim"),
    ("kuberay/rayservice.yaml", "proxy_location:", "proxy_place:", "proxy_place"),
    ("kuberay/rayservice.yaml", "        minReplicas: 1", "        minReplica: 1", "minReplica"),
    ("serve.yaml", "gateways: 2", "gateway: 2", "gateway"),
    ("serve.yaml", "vigc.serve.app:build", "vigc.serve.app:make", "has no make"),
    ("llm.yaml", "model_source: Qwen", "model_sources: Qwen", "model_sources"),
    ("llm.yaml", "max_replicas: 16", "max_replica: 16", "max_replica"),
    ("llm.yaml", "accelerator_type: A100", "accelerator: A100", "accelerator"),
    ("llm.yaml", "build_openai_app", "build_app", "import_path"),
    ("llm.yaml", "max_ongoing_requests: 192", "max_ongoing: 192", "max_ongoing"),
    ("mlflow/kubernetes.yaml", "containerPort: 5000", "containerport: 5000", "Deployment"),
    ("mlflow/kubernetes.yaml", "mlflow:$(DB_PASSWORD)@", "mlflow:hunter2@", "secret"),
    ("mlflow/compose.yaml", "${MLFLOW_DB_PASSWORD:?a password for the database}@", "hunter2@", "secret"),
    ("mlflow/Dockerfile", "mlflow==3.17.2", "mlflow", "DL3013"),
    ("grafana.json", "ray_vigc_images_total", "ray_vigc_pictures_total", "not both"),
    ("Dockerfile", "USER 10001:10001\n", "", "user"),
    ("Dockerfile", "USER 10001:10001", "USER ray", "number"),
    ("Dockerfile", "==2.60.0", "==2.40.0", "Ray"),
    ("Dockerfile", "ENV PATH=/opt/vigc/bin:$PATH \\\n", "ENV HF_TOKEN=hf_abc PATH=/opt/vigc/bin:$PATH \\\n", "secret"),
    ("Dockerfile.cpu", "python:3.11-slim-bookworm AS", "python AS", "DL3006"),
]


@pytest.mark.parametrize(("file", "old", "new", "word"), FAULTS, ids=[f"{fault[0]}: {fault[2]}" for fault in FAULTS])
def test_a_fault_is_found(file: str, old: str, new: str, word: str) -> None:
    good = (CLUSTER / file).read_text(encoding="utf-8")
    assert old in good, "the fault is not made"
    assert word in " ".join(problems_of(file, good.replace(old, new, 1)))


def test_kubernetes_serves_what_ray_alone_does() -> None:
    service = yaml.safe_load((CLUSTER / "kuberay/rayservice.yaml").read_text(encoding="utf-8"))
    alone = yaml.safe_load((CLUSTER / "serve.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == alone
