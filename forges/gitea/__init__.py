"""Gitea and Forgejo, which kept Gitea's interfaces."""
