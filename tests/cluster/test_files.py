"""The files in cluster/ are what Ray, Kubernetes, hadolint, Prometheus and Grafana take, and every check can say no."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cluster_checks as checks
import pytest
import yaml

from vigc.platform.pipeline.metrics import exported_names

CLUSTER = Path(__file__).parents[2] / "cluster"
CHECKS: dict[str, Callable[[str], list[str]]] = {
    "aws.yaml": checks.ray_cluster,
    "gcp.yaml": checks.ray_cluster,
    "kuberay/rayjob-generate.yaml": checks.manifests,
    "kuberay/rayjob-train.yaml": checks.manifests,
    "kuberay/rayservice.yaml": checks.manifests,
    "serve.yaml": checks.serve,
    "mlflow/kubernetes.yaml": checks.manifests,
    "mlflow/compose.yaml": checks.compose,
    "mlflow/Dockerfile": checks.dockerfile,
    "prometheus.yml": checks.prometheus,
    "grafana.json": checks.dashboard,
    "Dockerfile": checks.dockerfile,
    "Dockerfile.cpu": checks.dockerfile,
}

# For each file: what goes wrong, the text that is replaced once, by what, and a word of the complaint.
BROKEN: dict[str, list[tuple[str, str, str, str]]] = {
    "aws.yaml": [
        ("a key that Ray does not know", "max_workers: 20\n", "max_workers: 20\nmax_nodes: 3\n", "Ray:"),
        ("a number that is a word", "max_workers: 20\n", "max_workers: many\n", "Ray:"),
        ("no head", "head_node_type: head\n", "head_node_type: boss\n", "Ray:"),
        ("another image", "vigc:0.1.0\n  container", "vigc:latest\n  container", "image"),
        ("the head on spot", "InstanceType: m7i.2xlarge", "InstanceMarketOptions: {MarketType: spot}", "the head"),
        ("on demand before spot", "priority: 10", "priority: 40", "behind spot"),
        ("nothing on demand", "  gpu-40gb-on-demand:\n", "  gpu-x:\n    node_config_: 1\n", "Ray:"),
        (
            "no role",
            "ami-id\n      IamInstanceProfile: {Name: vigc-ray}",
            "ami-id",
            "no role",
        ),
        ("a key in the file", "ssh_user: ubuntu", "ssh_user: ubuntu  # AKIAABCDEFGHIJKLMNOP = mine", "secret"),
        ("a head that does not scale", "--autoscaling-config=~/ray_bootstrap_config.yaml", "", "lack"),
        ("a dashboard for everybody", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "dashboard"),
    ],
    "gcp.yaml": [
        ("a key that Ray does not know", "docker:\n", "docker:\n  images: x\n", "Ray:"),
        ("resources that are no numbers", "resources: {CPU: 16}", "resources: {CPU: all}", "Ray:"),
        ("tasks on the head", "resources: {CPU: 0}", "resources: {CPU: 8}", "the head"),
        (
            "no spot",
            "provisioningModel: SPOT\n        onHost",
            "provisioningModel: STANDARD\n        onHost",
            "no GPU type",
        ),
        ("fewer workers than its types have", "max_workers: 16\n", "max_workers: 8\n", "max_workers"),
        ("nodes that find no head", "--address=$RAY_HEAD_IP:6379", "", "lack"),
    ],
    "kuberay/rayjob-generate.yaml": [
        ("a field that KubeRay does not know", "  backoffLimit: 10\n", "  backOffLimit: 10\n", "backOffLimit"),
        ("another Ray", "rayVersion: 2.60.0", "rayVersion: 2.40.0", "rayVersion"),
        ("a field that Kubernetes does not know", "sizeLimit:", "size:", "Pod"),
        ("a flag that ray start has not", 'num-cpus: "0"', 'number-cpus: "0"', "no flag"),
        (
            "replicas beyond the most",
            "replicas: 0\n        minReplicas: 0\n        maxReplicas: 4",
            "replicas: 6\n        minReplicas: 0\n        maxReplicas: 4",
            "between",
        ),
        ("a verb that is none", "entrypoint: vigc generate", "entrypoint: vigc generat", "there is no"),
        ("a setting that is none", "    actors: 1:32", "    actor: 1:32", "has no actor"),
        ("a pod as root", "runAsNonRoot: true", "runAsNonRoot: false", "root"),
        ("no room at /dev/shm", "mountPath: /dev/shm", "mountPath: /dev/shn", "/dev/shm"),
        (
            "a mount of nothing",
            "- name: run\n                  mountPath",
            "- name: ran\n                  mountPath",
            "no volume",
        ),
    ],
    "kuberay/rayjob-train.yaml": [
        ("a flag that train has not", "--workers", "--worker", "has no --worker"),
        ("an access mode that is none", "[ReadWriteMany]", "ReadWriteMany", "PersistentVolumeClaim"),
        ("an image that is not pinned", "image: vigc:0.1.0", "image: vigc:latest", "not pinned"),
        (
            "no memory limit",
            "limits:\n                  memory: 16Gi",
            "limits:\n                  pods: 1",
            "memory limit",
        ),
        ("a mode that is none", "submissionMode: K8sJobMode", "submissionMode: KubernetesMode", "submissionMode"),
    ],
    "kuberay/rayservice.yaml": [
        ("a field that Serve does not know", "proxy_location:", "proxy_place:", "proxy_place"),
        ("an application without code", "        import_path: vigc.serve.app:build\n", "", "import_path"),
        (
            "keys in the file",
            "            valueFrom:\n",
            "            value: api_key=abcdef\n            valueFrom:\n",
            "secret",
        ),
        ("a memory that is none", "memory: 80Gi", "memory: [80]", "Pod"),
        (
            "no autoscaling",
            "enableInTreeAutoscaling: true",
            "enableInTreeAutoscaling: false",
            "enableInTreeAutoscaling",
        ),
    ],
    "serve.yaml": [
        ("a field that Serve does not know", "proxy_location:", "proxy_place:", "proxy_place"),
        ("an argument that is none", "gateways: 2", "gateway: 2", "gateway"),
        ("replicas that are no number", 'replicas: "1:8"', 'replicas: "few"', "replicas"),
        ("a port that is a word", "port: 8000", "port: http", "port"),
        ("code that is not there", "vigc.serve.app:build", "vigc.serve.app:make", "not ours"),
        ("an application without a place", "    import_path: vigc.serve.app:build\n", "", "import_path"),
    ],
    "mlflow/kubernetes.yaml": [
        ("a kind that is none", "kind: StatefulSet", "kind: StatefullSet", "StatefullSet"),
        ("a misspelt field", "containerPort: 5000", "containerport: 5000", "Deployment"),
        ("a password in the file", "mlflow:$(DB_PASSWORD)@", "mlflow:hunter2@", "secret"),
        ("a port that is a word", "port: 5432", "port: postgres", "Service"),
        ("as root", "runAsNonRoot: true", "runAsNonRoot: false", "root"),
    ],
    "mlflow/compose.yaml": [
        ("a password in the file", "${MLFLOW_DB_PASSWORD:?a password for the database}@", "hunter2@", "secret"),
        (
            "a password that may be empty",
            "${MLFLOW_DB_PASSWORD:?a password for the database}\n    vol",
            "${MLFLOW_DB_PASSWORD}\n    vol",
            "may be empty",
        ),
        ("open to the world", '"127.0.0.1:5000:5000"', '"5000:5000"', "ports"),
        ("the newest PostgreSQL", "postgres:17.6-bookworm", "postgres:latest", "image"),
        (
            "a service that is not there",
            "      db:\n        condition",
            "      database:\n        condition",
            "waits for",
        ),
        ("a misspelt field", "healthcheck:", "health_check:", "health_check"),
    ],
    "mlflow/Dockerfile": [
        ("not pinned", "mlflow==3.17.2", "mlflow", "DL3013"),
        ("root", "USER 10001:10001\n", "", "root"),
        ("the newest base", "python:3.12-slim-bookworm", "python:latest", "DL3007"),
        ("a password", "ENV MLFLOW", "ENV DB_PASSWORD=hunter2\nENV MLFLOW", "secret"),
        ("an instruction that is none", "WORKDIR", "WORKFOLDER", ""),
    ],
    "prometheus.yml": [
        ("a field that is none", "refresh_interval:", "refresh:", "refresh"),
        ("an address that lists nothing", "/api/prometheus/sd", "/metrics", "url"),
        ("an interval without unit", "scrape_interval: 15s", "scrape_interval: 15", "scrape_interval"),
        ("nothing to scrape", "    kubernetes_sd_configs:\n      - role: pod\n", "", "nothing to scrape"),
        ("a broken pattern", 'regex: "yes"', 'regex: "("', "regex"),
        ("two of a name", "job_name: kuberay", "job_name: ray", "two jobs"),
    ],
    "grafana.json": [
        ("a metric that nothing exports", "ray_vigc_images_total", "ray_vigc_pictures_total", "nothing exports"),
        ("no panel for the cost", '"title": "Cost so far"', '"title": "Money"', "Cost so far"),
        ("a panel upon another", '"x": 8', '"x": 4', "lies upon"),
        ("a variable that is none", '{run=~\\"$run\\"}', '{run=~\\"$runs\\"}', "no variable"),
        ("a rate of what is no counter", "rate(ray_vigc_tokens_total", "rate(ray_vigc_slots", "no"),
        ("a bracket too few", "[5m]))", "[5m])", "brackets"),
        ("two of an id", '"id": 2,', '"id": 1,', "the id 1"),
    ],
    "Dockerfile": [
        ("root", "USER 10001:10001\n", "", "root"),
        ("another Ray", "==2.60.0", "==2.40.0", "Ray"),
        (
            "not pinned",
            'pip install --no-cache-dir -c constraints.txt ".',
            'pip install --no-cache-dir ".',
            "not pinned",
        ),
        ("the newest base", "13.0.0-base-ubuntu24.04\n", "latest\n", "DL3007"),
        ("a copy of what is no stage", "--from=build", "--from=builder", ""),
        ("a user without a number", "USER 10001:10001", "USER ray", "number"),
        ("a token", "ENV PATH=/opt/vigc/bin:$PATH \\\n", "ENV HF_TOKEN=hf_abc PATH=/opt/vigc/bin:$PATH \\\n", "secret"),
    ],
    "Dockerfile.cpu": [
        ("root", "USER 10001:10001\n", "", "root"),
        ("no tag", "python:3.11-slim-bookworm AS", "python AS", "DL3006"),
        ("a shell that hides faults", 'CMD ["vigc", "doctor"]', "CMD vigc doctor", "DL3025"),
        ("lists of packages left behind", " && rm -rf /var/lib/apt/lists/* \\\n", "", "DL3009"),
        ("whatever is recommended", "--no-install-recommends ", "", "DL3015"),
    ],
}


@pytest.mark.parametrize("file", CHECKS)
def test_a_file_is_as_it_should_be(file: str) -> None:
    assert CHECKS[file]((CLUSTER / file).read_text(encoding="utf-8")) == []


def test_every_file_has_a_check_that_is_seen_to_refuse_five_faults() -> None:
    there = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()} - {"README.md"}
    assert there == set(CHECKS) == set(BROKEN)
    assert all(len(faults) >= 5 for faults in BROKEN.values())


@pytest.mark.parametrize(
    ("file", "old", "new", "word"),
    [pytest.param(file, *how, id=f"{file}: {what}") for file, faults in BROKEN.items() for what, *how in faults],
)
def test_a_fault_is_found(file: str, old: str, new: str, word: str) -> None:
    good = (CLUSTER / file).read_text(encoding="utf-8")
    assert old in good, "the fault is not made"
    problems = CHECKS[file](good.replace(old, new, 1))
    assert problems
    assert word in " ".join(problems)


def test_kubernetes_serves_what_ray_alone_does() -> None:
    service = yaml.safe_load((CLUSTER / "kuberay/rayservice.yaml").read_text(encoding="utf-8"))
    alone = yaml.safe_load((CLUSTER / "serve.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == alone


def test_the_dashboard_shows_everything_that_the_code_exports() -> None:
    text = (CLUSTER / "grafana.json").read_text(encoding="utf-8")
    assert set(re.findall(r"ray_vigc_\w+", text)) == exported_names()
