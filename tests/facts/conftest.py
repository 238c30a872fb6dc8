"""A repository for each test that asks for one."""

from __future__ import annotations

from support_git import empty_repository, git, head, repository

__all__ = ["empty_repository", "git", "head", "repository"]
