"""Every Redis key: its type, who writes it, how long it lives. A repository's key is
``<namespace>/<name>``. Outside of core only leases and locks are named."""

ROOT = "slipway"

SEQUENCE = f"{ROOT}:sequence"
"""string (int) · store · for ever: number of the newest release."""

ROLLBACK_SEQUENCE = f"{ROOT}:rollbacks:sequence"
"""string (int) · store · for ever: number of the newest rollback."""

RELEASES = f"{ROOT}:releases"
"""sorted set id → number · store · as long as each is kept: every release, oldest first."""

REPOSITORIES = f"{ROOT}:repositories"
"""hash repository key → JSON Repository · gateway, of previews store and builder · until its
namespace is deleted, its preview forgotten."""

FORGE_REPOSITORIES = f"{ROOT}:repositories:at-forges"
"""hash ``<forge> <the forge's id>`` → repository key, of those without a parent · store, with
REPOSITORIES · as those."""

LOOKS = f"{ROOT}:repositories:looks"
"""hash ``<forge> <the forge's id>`` → JSON Look: what is to be asked of a forge before anything is
done about the repository · gateway · until it was asked."""

HOOKS = f"{ROOT}:hooks"
"""hash id → JSON Hook, a webhook of one repository with a secret of its own · gateway · until it is
deleted."""

OWNERS = f"{ROOT}:owners"
"""hash ``<forge URL>#<owner id>`` → the namespace that the admin gave that owner · gateway · until
it is taken back, or the namespace deleted."""

PREVIEWS = f"{ROOT}:previews"
"""hash ``<key of the parent>#<number>`` → key of the preview's repository · store, with
REPOSITORIES · as those."""

ENVIRONMENTS = f"{ROOT}:environments"
"""hash repository key → JSON object, environment → branch: what the release of the deploy branch
said that went live last · store · as long as the repository."""

PROMOTION_TAGS = f"{ROOT}:promotion-tags"
"""hash ``<repository key> <tag>`` → the object that it named when it was looked at, at a forge the
commit that it stood for · gateway · as long as the tag; ``<repository key>`` alone → empty, where
the tags of a forge were looked through once · gateway · as long as the repository."""

NAMESPACES = f"{ROOT}:namespaces"
"""hash namespace → who holds it (``git``, ``<forge URL>#<owner id>``, of a preview
``request <key of the parent>#<number>``) · gateway, store · until it is deleted, its preview
forgotten."""

NAMESPACE_TEXTS = f"{ROOT}:namespaces:texts"
"""hash namespace → JSON Namespace, its labels and annotations · gateway · as long as it is there;
those that came with a push have none."""

VARIABLES = f"{ROOT}:variables"
"""hash namespace → JSON object: what its stack files' ``${NAME}`` stand for · gateway · as long as
there are any."""

POLICY = f"{ROOT}:policy"
"""string (JSON Held) · gateway · as long as SLIPWAY_POLICY is set: the last good policy."""

FUNCTIONS = f"{ROOT}:functions"
"""hash ``name.namespace`` → JSON FunctionRecord · store · for ever: the desired state."""

SECRETS = f"{ROOT}:secrets"
"""hash ``<namespace>/<name>`` → JSON Sealed · gateway · until deleted: sealed with a key that lies
outside of the store."""

SEALING_KEYS = f"{ROOT}:sealing-keys"
"""hash fingerprint → JSON PublishedKey: what values for git are sealed with · controller · as long
as its private key lies on the controller's disk."""

SEALING_WANTED = f"{ROOT}:sealing-keys:wanted"
"""string (int) · gateway · for ever: the newest of these keys has at least this number."""

SEALING_UNWANTED = f"{ROOT}:sealing-keys:unwanted"
"""set of fingerprints whose private keys are to be deleted · gateway · until the controller has."""

TOKENS = f"{ROOT}:tokens"
"""hash id → JSON Kept: who may ask for what of an owner's, with the hash of the token alone ·
gateway · until revoked, or as the namespace; past its expiry it opens nothing."""

TOKENS_USED = f"{ROOT}:tokens:used"
"""hash id → Unix time at which it was used last, coarse · gateway · as TOKENS."""

OBSERVED = f"{ROOT}:observed"
"""hash ``name.namespace`` → JSON Observed · controller · rewritten when it changes."""

FORWARDED = f"{ROOT}:forwarded"
"""hash ``<name.namespace> <gateway>`` → ``<requests> <Unix time until which that holds>``: what a
gateway itself forwards to a function · gateway · while there are any."""

SEEN = f"{ROOT}:seen"
"""channel · store → gateways: what is observed changed, look."""

USAGE_ASKED = f"{ROOT}:usage-asked"
"""set of ``name.namespace`` whose usage somebody waits for · gateway · until the controller takes
them, at most a minute."""

COUNTS = f"{ROOT}:counts"
"""hash ``name.namespace`` → requests that were counted · controller, or where there is no edge the
gateway · as long as the function."""

BATCHES = f"{ROOT}:batches"
"""hash who counts requests, at which start → ``<token of the batch it handed over last> <Unix
time>`` · as COUNTS · a day after its last batch."""

CALLS = f"{ROOT}:calls"
"""stream of asynchronous calls (id: see ``call``; begun: how often it was begun in earlier
entries), with a consumer group of this name · gateway, queue worker, whoever adds a call · each
until it was made and its callback told."""

CALLS_SIZE = f"{ROOT}:calls-size"
"""string (int) · as CALLS · for ever: bytes of all calls that were not made yet."""

CALLS_SIZES = f"{ROOT}:calls-sizes"
"""hash ``name.namespace`` → the same of one function, ``.namespace`` → of one owner · as CALLS_SIZE
· while it is not 0."""

PARKED = f"{ROOT}:calls-parked"
"""set of what asynchronous calls wait for, each with a stream ``parked`` · queue worker · as long
as that."""

SCHEDULES = f"{ROOT}:schedules"
"""hash ``name.namespace`` → JSON Planned: when it is called next on its schedule, and what became
of that · controller · as long as the function has a schedule."""

CALLS_DUE = f"{ROOT}:calls-due"
"""sorted set id → Unix time of its next attempt · queue worker · each until then."""

CALLS_KEPT = f"{ROOT}:calls-kept"
"""sorted set id → Unix time until which the answer is kept · queue worker, gateway · until then, or
until others need the room: the oldest go first."""

CALLS_KEPT_SIZE = f"{ROOT}:calls-kept-size"
"""string (int) · as CALLS_KEPT · for ever: bytes of all of it."""

DEAD_LETTERS = f"{ROOT}:dead-letters"
"""sorted set id → Unix time until which it is kept · queue worker · until then, until others need
the room, or until the admin has it replayed or removed."""

DEAD_LETTERS_SIZE = f"{ROOT}:dead-letters-size"
"""string (int) · as DEAD_LETTERS · for ever: bytes of all of it."""

WARM = f"{ROOT}:warm"
"""hash ``name.namespace`` → JSON Warm · store · until its time is over: controller."""

WATCHED = f"{ROOT}:watched"
"""set of ids of releases that are watched · store · until their verdict."""

RECEIPTS = f"{ROOT}:receipts"
"""hash id of a release or rollback → JSON OpenReceipt · controller · until it is written."""

ROLLBACKS = f"{ROOT}:rollbacks"
"""hash id → JSON Rollback · gateway, store · the newest hundred of each repository."""

ROLLING = f"{ROOT}:rollbacks:moving"
"""set of ids of rollbacks under way · store · until they are done or failed."""

REPORTING = f"{ROOT}:reporting"
"""set of ids of releases that changed since their forge was told of all there is to tell · store,
with every write of a release · until the reporter has told it, or found that no forge is."""

COMMENTS = f"{ROOT}:comments"
"""hash repository key → JSON Shown: the comment on the request whose preview the repository is ·
reporter · as long as REPOSITORIES has it."""

STAGING = f"{ROOT}:staging"
"""set of release ids in state ``staging`` · store · until they leave it."""

BEATS = f"{ROOT}:beats"
"""hash part → ``<unix time at which it counts as gone> <note>`` · each part of the installation ·
emptied by the supervisor at its start: an earlier run's parts do not live."""

DEATHS = f"{ROOT}:deaths"
"""hash release id → workers that died while building it · sweep · emptied with BEATS."""

UNNEEDED = f"{ROOT}:unneeded"
"""hash ``<namespace> <artifact>`` → Unix time since which no release that is kept has it ·
controller · until it is removed or needed again."""

DISK_USED = f"{ROOT}:disk-used"
"""string (bytes) · builder · seconds: what builds take of the state folder, measured."""

WAKE = f"{ROOT}:wake"
"""channel · store → controller, builds: something changed, look. What it says: store/parts.py."""


def release(id_: str) -> str:
    """hash · store · as long as something can be rolled back to it: doc (JSON Release), attempts,
    pinned, late (where its event was, and the head has its release); artifacts (JSON list) while
    staged or live; environments (JSON object) where it is of a deploy branch's head; once it is the
    desired state switched (JSON list of what it changed), revisions (JSON object function →
    revision), and until its verdict before (JSON list of the FunctionRecords that it replaced);
    reported where its forge is told of it."""
    return f"{ROOT}:release:{id_}"


def rows(id_: str) -> str:
    """hash function name → JSON FunctionRow · builder, store · as long as the release."""
    return f"{ROOT}:release:{id_}:rows"


def reports(id_: str) -> str:
    """hash context → JSON Shown, ``!<kind>`` → why nothing of that kind is told any more · reporter
    · as long as the release: what its forge shows of it."""
    return f"{ROOT}:release:{id_}:reports"


def log(id_: str) -> str:
    """stream of JSON LogLine, the last entry marked ``end`` · builder, store · 30 days after it was
    decided."""
    return f"{ROOT}:release:{id_}:log"


def lease(id_: str) -> str:
    """string (token) · the worker that builds the release · seconds: absent, nobody builds it."""
    return f"{ROOT}:lease:{id_}"


def repository_releases(repository: str) -> str:
    """sorted set id → number · store · as RELEASES: releases of one repository."""
    return f"{ROOT}:repository:{repository}:releases"


def revisions(repository: str) -> str:
    """hash ``<function>@<revision>`` → JSON FunctionSpec · store · as long as it can be
    gone back to."""
    return f"{ROOT}:repository:{repository}:revisions"


def waiting(repository: str) -> str:
    """string (release id) · store · until dispatched: the one release that waits for its turn."""
    return f"{ROOT}:repository:{repository}:waiting"


def turn(repository: str) -> str:
    """string (release id) · store · until it leaves the builder: the one that may be built."""
    return f"{ROOT}:repository:{repository}:turn"


def head(repository: str) -> str:
    """string (commit) · store · as REPOSITORIES: the branch's head that has a release, as it turned
    out when that was built; of a preview its request's commit that has one."""
    return f"{ROOT}:repository:{repository}:head"


def live(repository: str) -> str:
    """string (release id) · store · for ever: the release that is live."""
    return f"{ROOT}:repository:{repository}:live"


def artifacts(namespace: str) -> str:
    """hash build key → artifact · builder · until housekeeping removes the artifact: what need not
    be built again."""
    return f"{ROOT}:namespace:{namespace}:artifacts"


def inputs(namespace: str) -> str:
    """hash build key → JSON object, the named inputs that it was made of · builder · as long as the
    same key of ``artifacts``."""
    return f"{ROOT}:namespace:{namespace}:inputs"


def built_seconds(owner: str, month: str, *, forks: bool = False) -> str:
    """string (seconds) · builder · 62 days after the last build: how long builds of an owner took
    in a month, such as ``2026-01``; likewise of requests from forks, which count apart."""
    return f"{ROOT}:namespace:{owner}:{'forks-' * forks}built-seconds:{month}"


def closed_request(forge: str, repository: str, number: int) -> str:
    """string (the forge's time of its end, or '') · store · a week after its preview was forgotten:
    an older event, delivered late, does not bring it back."""
    return f"{ROOT}:closed-request:{forge}:{repository}:{number}"


def delivery(forge: str, id_: str) -> str:
    """string (release id) · gateway · a week (forges redeliver for three days)."""
    return f"{ROOT}:delivery:{forge}:{id_}"


def setup(digest: str) -> str:
    """string (what it was begun with) · gateway · an hour, or until it is taken: somebody was sent
    to a forge with the state of this SHA-256, to come back with something to keep."""
    return f"{ROOT}:setup:{digest}"


def used_once(mark: str) -> str:
    """string · gateway · as long as what it stands for could be used again: a sign-in that has come
    back from its forge."""
    return f"{ROOT}:used-once:{mark}"


def asks_to_prune(part: str) -> str:
    """list (ids of Asks) · gateway, builder · until that part takes them, seconds at most: it is to
    look now for what can be removed."""
    return f"{ROOT}:asks-to-prune:{part}"


def ask_to_prune(id_: str, part: str) -> str:
    """string (JSON Ask) · whoever asks · until that part takes it, seconds at most."""
    return f"{ROOT}:ask-to-prune:{id_}:{part}"


def pruned(id_: str, part: str) -> str:
    """string (JSON Answer) · that part · minutes: what it found."""
    return f"{ROOT}:pruned:{id_}:{part}"


def lock(name: str) -> str:
    """string (token) · whoever does a periodic duty alone · seconds."""
    return f"{ROOT}:lock:{name}"


def parked(why: str) -> str:
    """stream as CALLS, and begun: how often each was begun · queue worker · until it is empty."""
    return f"{ROOT}:calls-parked:{why}"


CALL = f"{ROOT}:call:"
"""What ``call`` begins with, for scripts."""


def call(id_: str) -> str:
    """hash · gateway, queue worker, whoever adds a call · until its id leaves CALLS_KEPT or
    DEAD_LETTERS: what core/store/callscripts.py says."""
    return CALL + id_


def usage(function: str) -> str:
    """string (JSON Usage) · controller · seconds: measured when asked for."""
    return f"{ROOT}:usage:{function}"


def traffic(of: str) -> str:
    """hash ``<labels> <bucket>`` → requests, ``<labels> us`` → microseconds · as COUNTS, of
    ``/system`` the gateway · as long as the function, of ``/system`` for ever."""
    return f"{ROOT}:traffic:{of}"


BACKED_UP = (
    NAMESPACES,
    NAMESPACE_TEXTS,
    VARIABLES,
    REPOSITORIES,
    FORGE_REPOSITORIES,
    HOOKS,
    OWNERS,
    PREVIEWS,
    ENVIRONMENTS,
    PROMOTION_TAGS,
    SECRETS,
    TOKENS,
)
"""Hashes that `slipway backup` keeps whole: what nobody else could tell again. See also
``core.store.snapshot``."""
