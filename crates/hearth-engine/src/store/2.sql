-- A sandbox can be stopped. What a table checks is changed by making it anew, with all that refers to it.
CREATE TABLE next_sandbox (
    id TEXT PRIMARY KEY,
    name TEXT UNIQUE,
    labels TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    idle_action TEXT CHECK (idle_action IN ('pause', 'remove')),
    idle_seconds INTEGER,
    image TEXT NOT NULL,
    digest TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL,
    disk_mib INTEGER,
    env TEXT NOT NULL,
    template TEXT,
    accelerator TEXT NOT NULL,
    board TEXT NOT NULL,
    disk_below INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'failed')),
    reason TEXT,
    paused TEXT
) STRICT, WITHOUT ROWID;

INSERT INTO next_sandbox SELECT * FROM sandbox;

CREATE TABLE next_port (
    listen TEXT PRIMARY KEY,
    sandbox TEXT NOT NULL REFERENCES next_sandbox (id) ON DELETE CASCADE,
    guest_port INTEGER NOT NULL,
    guest_host TEXT,
    service TEXT
) STRICT, WITHOUT ROWID;

INSERT INTO next_port SELECT * FROM port;

DROP TABLE port;
DROP TABLE sandbox;
-- What refers to a table follows its name.
ALTER TABLE next_sandbox RENAME TO sandbox;
ALTER TABLE next_port RENAME TO port;

CREATE INDEX port_of_sandbox ON port (sandbox);
