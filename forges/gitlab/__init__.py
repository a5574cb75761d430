"""GitLab: GitLab.com and installations of one's own."""
