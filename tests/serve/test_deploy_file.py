"""cluster/serve.yaml, as `serve deploy` and KubeRay read it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray._common.utils import import_attr
from ray.serve import Application
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema

from vigc.serve.settings import ServeSettings

FILE = Path(__file__).parents[2] / "cluster" / "serve.yaml"


@pytest.fixture(scope="module")
def application():
    (found,) = ServeDeploySchema.model_validate(yaml.safe_load(FILE.read_text())).applications
    return found


def test_serve_accepts_the_file_and_the_service_its_arguments(application):
    settings = ServeSettings.model_validate(application.args)
    assert settings.replica_range == (1, 8)
    assert settings.requires_key
    assert settings.gpus_per_replica == 1


def test_the_application_is_built_from_it(application):
    """With the model that ships, since the file's own is on a hub."""
    builder = import_attr(application.import_path)
    args = application.args | {"model": None}
    assert isinstance(call_user_app_builder_with_args_if_necessary(builder, args), Application)


def test_an_argument_that_is_none_is_refused_by_name(application):
    builder = import_attr(application.import_path)
    with pytest.raises(ValidationError, match="replica"):
        call_user_app_builder_with_args_if_necessary(builder, application.args | {"replica": 3})
