"""What workers say of their build (`worker.build`)."""

from temporalio.common import VersioningBehavior
from temporalio.workflow import _Definition as Definition

from worker.builds import deployment_config, workflows_of
from worker.temporal import WORKFLOWS


def test_without_a_build_no_workflow_says_how_it_moves() -> None:
    """Temporal refuses such an answer of a worker without a build, and the run would stand still."""
    behaviors = {Definition.must_from_class(workflow).versioning_behavior for workflow in workflows_of("", WORKFLOWS)}
    assert behaviors == {VersioningBehavior.UNSPECIFIED}


def test_without_a_build_nothing_is_said_of_a_deployment() -> None:
    assert deployment_config("") is None


def test_with_a_build_jobs_and_groups_stay_and_module_versions_move() -> None:
    config = deployment_config("1.4.0")
    assert config is not None
    behaviors = {
        definition.name: definition.versioning_behavior or config.default_versioning_behavior
        for definition in map(Definition.must_from_class, workflows_of("1.4.0", WORKFLOWS))
    }
    assert behaviors == {
        definition.name: VersioningBehavior.AUTO_UPGRADE if definition.name == "ModuleVersion" else VersioningBehavior.PINNED
        for definition in map(Definition.must_from_class, WORKFLOWS)
    }
