"""The CDK app: two stacks for each stage in `cdk.json`, or in `cdk -c stages='{"name": {"provider": "stub"}}'`."""

from __future__ import annotations

import json

import aws_cdk as cdk
from cdk_nag import AwsSolutionsChecks

from infrastructure.data_stack import DataStack
from infrastructure.lambda_stack import LambdaStack
from infrastructure.stage import Stage


def build(app: cdk.App) -> cdk.App:
    """Add the stacks of every stage to the app. cdk-nag checks them when the app is synthesized."""
    stages = app.node.get_context("stages")
    for name, chosen in (json.loads(stages) if isinstance(stages, str) else stages).items():
        stage = Stage.parse(name, chosen)
        LambdaStack(app, stage, DataStack(app, stage))
    cdk.Validations.of(app).add_plugins(AwsSolutionsChecks(app))
    return app


if __name__ == "__main__":
    build(cdk.App()).synth()
