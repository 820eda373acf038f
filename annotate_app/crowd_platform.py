"""People sent by a crowd platform such as Prolific: one link for all of a study, a code once the work is done, places given back.

A study and who joined it are events. Participants are users named STUDY:PARTICIPANT with the role annotator; what vouches for
them is the link, which holds a secret: it belongs on the platform and nowhere else.
"""

import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from storage.errors import UserError
from storage.ids import new_id
from storage.records import Annotator, User
from storage.store import LEASE_SECONDS, Store

NAME, PARTICIPANT = re.compile(r"[A-Za-z0-9_-]{1,40}"), re.compile(r"[A-Za-z0-9_-]{1,64}")
RETURN_URL = "https://app.prolific.com/submissions/complete?cc={code}"
PLATFORM_FIELDS = "PROLIFIC_PID={{%PROLIFIC_PID%}}&STUDY_ID={{%STUDY_ID%}}&SESSION_ID={{%SESSION_ID%}}"  # filled in by Prolific


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """``labels``: judgments after which ``code`` is shown; ``key`` is the secret of the link."""

    name: str
    labels: int
    code: str
    key: str
    return_url: str
    closed: bool = False

    @property
    def path(self) -> str:
        """Of the link that the platform opens, with the names it fills in."""
        return f"/join/{self.key}?{PLATFORM_FIELDS}"

    @property
    def link_back(self) -> str:
        return self.return_url.replace("{code}", quote(self.code, safe=""))


def open_study(
    store: Store, name: str, *, labels: int, actor: str, code: str | None = None, return_url: str = RETURN_URL
) -> Study:
    """A new study; UserError where the name is taken or a value cannot be used."""
    if not NAME.fullmatch(name):
        raise UserError(f"The study's name {name!r} is refused. Use up to 40 letters, digits, - and _.")
    if name in studies(store):
        raise UserError(f"There is a study {name!r} already. Choose another name.")
    if urlsplit(return_url).scheme not in ("http", "https"):
        raise UserError(f"The return address {return_url!r} is refused. Begin it with https:// and write {{code}} for the code.")
    data = {
        "labels": labels, "code": code or secrets.token_hex(4).upper(), "key": secrets.token_urlsafe(16), "return_url": return_url
    }  # fmt: skip
    store.append_event(actor=actor, kind="crowd.opened", subject=name, data=data)
    return Study(name=name, **data)


def close_study(store: Store, study: Study, *, actor: str) -> None:
    """Nobody joins it any more; who has joined may finish."""
    if not study.closed:
        store.append_event(actor=actor, kind="crowd.closed", subject=study.name)


def studies(store: Store) -> dict[str, Study]:
    """By name, in the order opened."""
    events = store.list_events(kind_prefix="crowd.opened", limit=100_000)
    closed = {event.subject for event in store.list_events(kind_prefix="crowd.closed", limit=100_000)}
    return {event.subject: Study(name=event.subject, closed=event.subject in closed, **event.data) for event in events}


def find_study(store: Store, name: str) -> Study:
    """The study of this name; UserError if there is none."""
    found = studies(store)
    if name not in found:
        raise UserError(f"There is no study {name!r}. Known: {', '.join(found) or 'none yet'}.")
    return found[name]


def study_of_key(store: Store, key: str) -> Study | None:
    """The study that a link leads to."""
    return next((study for study in studies(store).values() if secrets.compare_digest(study.key.encode(), key.encode())), None)


def join(store: Store, study: Study, participant: str, *, session: str = "", platform_study: str = "") -> User:
    """The participant's user, added at their first coming; UserError for an id that cannot be one, or who was shut out."""
    if not PARTICIPANT.fullmatch(participant):
        raise UserError("The participant id of this link is missing or not one. Open the study from the platform again.")
    name = f"{study.name}:{participant}"
    user = next((user for user in store.list_users() if user.name == name), None)
    if user is not None:
        if user.disabled or not _has_joined(store, user):
            raise UserError("This participant may not take part. Return your place on the platform.")
        return user
    now = datetime.now(UTC)
    annotator = Annotator(id=new_id(), handle=name, kind="human", created_at=now)
    user = User(id=new_id(), name=name, role="annotator", annotator_id=annotator.id, created_at=now)
    store.add_annotator(annotator)
    store.add_user(user)
    data = {"study": study.name, "annotator_id": annotator.id, "session": session[:100], "platform_study": platform_study[:100]}
    store.append_event(actor=user.id, kind="crowd.joined", subject=user.id, data=data)
    return user


def study_of(store: Store, annotator_id: str) -> tuple[Study, int] | None:
    """The study that an annotator takes part in, and their labels so far; None for everybody else."""
    rows = store.query(_WORK, {"annotator": annotator_id}).to_pylist()
    return (find_study(store, rows[0]["study"]), rows[0]["labels"]) if rows else None


def labels_left(store: Store, annotator_id: str, *, with_held: bool) -> int | None:
    """How many more pairs a participant is to be given; None: no end. ``with_held``: those they hold are among them."""
    found = study_of(store, annotator_id)
    if found is None:
        return None
    study, labels = found
    now = {"annotator": annotator_id, "now": datetime.now(UTC)}
    held = 0 if with_held else store.query(_HELD, now)["n"][0].as_py()
    return max(0, study.labels - labels - held)


def participants(store: Store, study: Study) -> list[dict[str, Any]]:
    """Everybody who joined: labels, pairs held, pairs given back unanswered, and finished, working or abandoned."""
    now = datetime.now(UTC)
    rows = store.query(_PARTICIPANTS, {"study": study.name, "now": now}).to_pylist()
    for row in rows:
        quiet = now - row["last_at"] > timedelta(seconds=LEASE_SECONDS)
        row["state"] = "finished" if row["labels"] >= study.labels else "abandoned" if quiet else "working"
    return rows


def _has_joined(store: Store, user: User) -> bool:
    joined = "SELECT count(*) AS n FROM events WHERE kind = 'crowd.joined' AND subject = $user"
    return store.query(joined, {"user": user.id})["n"][0].as_py() > 0


# Labels as they were made, whether or not the researcher counts them: the work was done.
_WORK = """
    SELECT data ->> '$.study' AS study,
           (SELECT count(*) FROM standing JOIN tasks ON tasks.id = standing.task_id
            WHERE standing.annotator_id = $annotator AND verdict <> 'skip' AND purpose <> 'gold') AS labels
    FROM events WHERE kind = 'crowd.joined' AND data ->> '$.annotator_id' = $annotator
"""
_LEASES = """
    unanswered AS (
        SELECT leases.annotator_id, greatest(leases.expires_at, max(renewals.expires_at)) AS until
        FROM leases LEFT JOIN renewals ON renewals.lease_id = leases.id
        WHERE leases.id NOT IN (SELECT id FROM judgments) GROUP BY leases.id, leases.annotator_id, leases.expires_at)
"""
_HELD = f"WITH {_LEASES} SELECT count(*) AS n FROM unanswered WHERE annotator_id = $annotator AND until > $now"
_PARTICIPANTS = f"""
    WITH {_LEASES},
    joined AS (SELECT data ->> '$.annotator_id' AS annotator_id, min("at") AS joined_at, min(seq) AS seq FROM events
               WHERE kind = 'crowd.joined' AND data ->> '$.study' = $study GROUP BY ALL),
    made AS (
        SELECT standing.annotator_id, count(*) FILTER (verdict <> 'skip') AS labels, max(submitted_at) AS last_at
        FROM standing JOIN tasks ON tasks.id = standing.task_id WHERE purpose <> 'gold' GROUP BY ALL),
    held AS (
        SELECT annotator_id, count(*) FILTER (until > $now) AS held, count(*) FILTER (until <= $now) AS given_back
        FROM unanswered GROUP BY ALL)
    SELECT joined.annotator_id, annotators.handle AS annotator, joined_at, coalesce(labels, 0) AS labels,
           coalesce(held, 0) AS held, coalesce(given_back, 0) AS given_back, greatest(joined_at, last_at) AS last_at
    FROM joined JOIN annotators ON annotators.id = joined.annotator_id
    LEFT JOIN made ON made.annotator_id = joined.annotator_id LEFT JOIN held ON held.annotator_id = joined.annotator_id
    ORDER BY joined.seq
"""
