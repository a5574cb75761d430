"""What is known of a repository: whose it is, what of it is deployed, and to where.

Field names are camelCase in JSON. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

from core.models import Struct
from core.names import PRODUCTION, preview_secrets


class Request(Struct, frozen=True):
    """A pull or merge request whose preview a repository is."""

    number: int
    """As the forge counts them within the repository."""
    title: str = ""
    url: str = ""
    """Its page at the forge."""
    commit: str = ""
    """Its head when we last heard of it: a hint."""
    fork: bool = False
    """Whether the head lies in another repository, by the repositories' ids: nobody vouches for
    it."""
    approved: str = ""
    """The commit that somebody of the owner approved, where it needs that."""
    updated_at: str = ""
    """When we heard of its last push or its end, or ended its preview: RFC 3339."""
    told_at: str = ""
    """The forge's own time of the newest event that counted: what is older changes nothing."""
    open: bool = True
    """Whether it is open, as far as the forge has told. Its preview may be ``gone`` all the same:
    until it is pushed to, or a reason of our own is over."""


class Repository(Struct, frozen=True):
    """A repository that Slipway knows; or, with a ``parent``, one of its environments or previews,
    which is built of another branch into a namespace of its own and else is a repository as any."""

    namespace: str
    name: str
    source: str
    """``git`` for our own remote, else the forge: ``github``, ``gitlab`` or ``gitea``."""
    full_name: str = ""
    """``owner/name`` at the forge, at GitLab with all groups; the clone URL is the forge's base +
    this, never a payload's."""
    forge_id: str = ""
    """The forge's own id of the repository: a renamed one keeps it."""
    owner_id: str = ""
    """The forge's own id of its owner: at GitLab of the outermost group."""
    deploy_branch: str = ""
    """Empty until the first of main/master is pushed to our own remote. Of a preview the whole
    reference, such as ``refs/pull/5/head``."""
    public: bool = False
    """Whether the forge shows it to everybody."""
    installation: str = ""
    """Id of the GitHub App's installation that vouches for it; empty: none."""
    app: str = ""
    """Id of that App: what another one does not have, is not gone."""
    parent: str = ""
    """Key of the repository whose environment or preview this is."""
    environment: str = ""
    """Its name where it is an environment: ``staging``."""
    request: Request | None = None
    """Of a preview."""
    gone: str = ""
    """Why nothing of it is deployed any more, whatever its branch has: it was deleted, the App
    was uninstalled, the request was closed."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def home(self) -> str:
        """Key of the repository in which its commits lie: the parent's, or its own."""
        return self.parent or self.key

    @property
    def artifacts_namespace(self) -> str:
        """Whose artifacts it finds and makes, if not those of its own namespace: an environment
        its owner's, a preview never."""
        return self.parent.partition("/")[0] if self.environment else ""

    @property
    def place(self) -> str:
        """The name of the environment, or ``production``."""
        return self.environment or PRODUCTION

    @property
    def trusted(self) -> bool:
        """Whether only those who may write to the repository decide what is in it."""
        return self.request is None or not self.request.fork

    @property
    def secrets_namespace(self) -> str:
        """Whose secrets and variables its functions have: its own namespace's. Of a preview those
        that its owner keeps for previews alone; of a fork's nobody's: empty."""
        if self.request is None:
            return self.namespace
        return preview_secrets(self.parent.partition("/")[0]) if self.trusted else ""
