CREATE TABLE sandbox (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    -- A JSON object.
    labels TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    idle_action TEXT CHECK (idle_action IN ('pause', 'remove')),
    idle_seconds INTEGER,
    -- As it was asked for, and the digest that this meant.
    image TEXT NOT NULL,
    digest TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_mib INTEGER,
    -- A JSON object: variables of its programs.
    env TEXT NOT NULL,
    -- What it was restored from; none for one that was booted.
    template TEXT,
    accelerator TEXT NOT NULL,
    board TEXT NOT NULL,
    -- The overlays of its disk that its own QEMU cannot write to.
    disk_below INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'failed')),
    -- Why it has failed.
    reason TEXT,
    -- A JSON object: what a pause has written.
    paused TEXT
) STRICT, WITHOUT ROWID;

CREATE TABLE port (
    listen TEXT PRIMARY KEY,
    sandbox TEXT NOT NULL REFERENCES sandbox (id) ON DELETE CASCADE,
    guest_port INTEGER NOT NULL,
    guest_host TEXT,
    service TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX port_of_sandbox ON port (sandbox);
