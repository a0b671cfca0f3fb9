"""What is deployed: the Lambda functions' zip, and the CDK app. Run from the repository's root."""
