"""The CDK app, and the zip of the Lambda functions that it deploys. Run both from the repository's root."""
