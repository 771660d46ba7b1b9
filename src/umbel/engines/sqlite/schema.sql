-- The tables of one store file. Format version: PRAGMA user_version (FORMAT in connection.py).
-- Write-ahead log, no automatic checkpoints (checkpoint.py says why). All times are Unix seconds.

-- One row per message. Ready: worker and due are NULL. Delayed: due is set. Claimed: worker is
-- set, by a worker's number. A row keeps its place (number) however often it is put back.
CREATE TABLE message (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    tag           TEXT    NOT NULL,  -- "<task id>:<nonce>": unique, and finds a task by its id
    queue         TEXT    NOT NULL,
    priority      INTEGER NOT NULL,
    due           REAL,
    worker        INTEGER,
    attempt       INTEGER NOT NULL DEFAULT 0,  -- claims so far, part of the fence
    deliveries    INTEGER NOT NULL DEFAULT 0,  -- attempts charged
    suspect       INTEGER NOT NULL DEFAULT 0,
    early         INTEGER NOT NULL DEFAULT 0,  -- acknowledged before it ran
    unknown_since REAL,
    published     REAL    NOT NULL,
    payload       BLOB    NOT NULL
);
CREATE UNIQUE INDEX message_tag ON message (tag);
CREATE INDEX message_ready ON message (queue, priority DESC, number)
    WHERE worker IS NULL AND due IS NULL;
CREATE INDEX message_delayed ON message (due, queue) WHERE worker IS NULL AND due IS NOT NULL;
CREATE INDEX message_claimed ON message (worker) WHERE worker IS NOT NULL;

CREATE TABLE result (
    id      TEXT PRIMARY KEY,
    status  TEXT NOT NULL,
    expires REAL,
    meta    BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX result_expires ON result (expires) WHERE expires IS NOT NULL;

-- One row per ended attempt, oldest first; capped by age and number. No index: one on the id would
-- cost a tenth of each settlement, a quarter with Celery's random ids; a scan of a full table takes
-- 0.1 s.
CREATE TABLE history (
    number  INTEGER PRIMARY KEY,
    id      TEXT NOT NULL,
    task    TEXT NOT NULL,
    queue   TEXT NOT NULL,
    state   TEXT NOT NULL,
    at      REAL NOT NULL,
    runtime REAL,
    worker  TEXT NOT NULL,
    retries INTEGER NOT NULL,
    error   TEXT,
    place   TEXT  -- where in a workflow it stood: root, parent, group and joins, as JSON
);

-- Dead letters keep the message's own row content, so that a replay loses nothing.
CREATE TABLE dead (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    id         TEXT    NOT NULL,
    task       TEXT    NOT NULL,
    tag        TEXT    NOT NULL,
    queue      TEXT    NOT NULL,
    priority   INTEGER NOT NULL,
    reason     TEXT    NOT NULL,
    detail     TEXT    NOT NULL,
    at         REAL    NOT NULL,
    deliveries INTEGER NOT NULL,
    payload    BLOB    NOT NULL
);
CREATE INDEX dead_id ON dead (id);

-- One row per worker incarnation; its lease is the renewal counter.
CREATE TABLE worker (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    node     TEXT    NOT NULL UNIQUE,
    renewals INTEGER NOT NULL DEFAULT 0,
    dead     INTEGER NOT NULL DEFAULT 0,
    record   BLOB    NOT NULL  -- WorkerRecord as JSON
);

CREATE TABLE revocation (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the set's version
    id     TEXT NOT NULL UNIQUE,
    until  REAL NOT NULL
);

-- Of a revoked id: the signal by which the task is to be ended where it runs.
CREATE TABLE termination (id TEXT PRIMARY KEY, signal INTEGER NOT NULL) WITHOUT ROWID;

-- Periodic tasks, and when each is due next; NULL: not again. A row's version is a random number,
-- another one at each change: who fires a tick, or edits, names the version that it starts from.
CREATE TABLE schedule (
    number  INTEGER PRIMARY KEY,
    name    TEXT    NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    due     REAL,
    body    BLOB    NOT NULL  -- umbel.beat.records
);
CREATE INDEX schedule_due ON schedule (due) WHERE due IS NOT NULL;

CREATE TABLE pause (queue TEXT PRIMARY KEY) WITHOUT ROWID;

-- A row per chord that is being joined, and per workflow whose rest is kept.
CREATE TABLE workflow (
    id      TEXT PRIMARY KEY,
    size    INTEGER NOT NULL,  -- of a chord: how many parts it needs; 0: steps are kept
    ended   INTEGER NOT NULL DEFAULT 0,  -- parts that are there
    expires REAL,
    body    BLOB  -- of a chord: the Message to publish with the last part, as msgpack
) WITHOUT ROWID;
CREATE INDEX workflow_expires ON workflow (expires) WHERE expires IS NOT NULL;

-- A chord's parts by the member's index and key, or a workflow's steps by their position.
CREATE TABLE piece (
    workflow TEXT    NOT NULL,
    position INTEGER NOT NULL,
    key      TEXT    NOT NULL,
    data     BLOB    NOT NULL,
    PRIMARY KEY (workflow, position, key)
) WITHOUT ROWID;
