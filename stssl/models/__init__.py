"""Learned parameters: timm backbones, injection of metadata, teacher and student."""
