"""Starts a program, loses it, and follows it again from where it was: no byte is lost and none comes twice."""

import hearth


def main() -> None:
    with hearth.Client() as client, client.create(lifespan="connection") as box:
        first = box.hold("for i in $(seq 1 50); do echo line $i; done; read go; echo end", interactive=True)
        seen = b""
        while not seen.endswith(b"line 50\n"):
            piece = next(iter(first))
            seen += piece.data if isinstance(piece, hearth.Output) else b""
        first.close()

        again = box.process(first.process)
        with again.attach(stdout=first.positions["stdout"], stderr=first.positions["stderr"]) as held:
            again.write(b"go\n", close=True)
            for piece in held:
                seen += piece.data if isinstance(piece, hearth.Output) else b""
            print(held.wait().exit_code, len(seen.splitlines()), seen.splitlines()[-1].decode())


if __name__ == "__main__":
    main()
