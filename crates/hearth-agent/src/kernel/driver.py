# The python kernel's driver. Runs what the agent asks for in a `__main__` of its own, and tells how it went.
#
# It reads requests from one descriptor and answers on another, both far above those that programs use and not passed on to
# children. A request is a line of JSON and then as many bytes of code as it says. An answer is the request's token, a space and a line of
# JSON; what comes without the token is not the driver's.
#
# Everything here lives in one call of `serve`, with builtins of its own, and in no module: user code can replace whatever it sees.


def serve(requests, answers, path):
    import ast
    import base64
    import importlib.util
    import json
    import keyword
    import linecache
    import os
    import sys
    import traceback
    import types
    from _signal import SIGINT, default_int_handler, signal
    from io import BufferedWriter, FileIO, TextIOWrapper

    FORM = 2 << 20  # the most bytes of one form of a value
    TEXT = 1 << 20  # the most characters of a value's repr
    SOURCES = 1000  # the execs whose source is kept for tracebacks
    NAME = "<exec-%d>"
    REHEARSAL = ("print(end='')\n1 + 1", "1 + 1")
    own = serve.__code__.co_filename
    process = os.getpid()
    to_json, scan = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode, json.JSONDecoder().scan_once
    write_raw, read_raw, close = os.write, os.read, os.close
    exit_now, get_pid, environment, is_there = os._exit, os.getpid, os.environb, os.access
    set_trace, get_trace, set_profile, get_profile = sys.settrace, sys.gettrace, sys.setprofile, sys.getprofile
    TracebackException = traceback.TracebackException
    state = {"token": "", "forked": False, "count": 0, "flags": 0, "loop": None, "fflush": None}
    sources = {}
    shared = vars(__import__("builtins"))
    pristine, absent = dict(shared), object()
    module = types.ModuleType("__main__")
    module.__builtins__ = __import__("builtins")
    namespace = module.__dict__
    sys.modules["__main__"] = module
    sys.argv[:] = [""]
    sys.path[:] = path
    for descriptor in (requests, answers):
        os.set_inheritable(descriptor, False)

    class Direct(BufferedWriter):
        """Holds nothing back: what was written is out, whatever happens to the process next."""

        def write(self, data, write=BufferedWriter.write, flush=BufferedWriter.flush):
            count = write(self, data)
            flush(self)
            return count

    def stream(descriptor, errors):
        raw = FileIO(descriptor, "w", closefd=False)
        return TextIOWrapper(Direct(raw, 1 << 16), "utf-8", errors, newline="\n", write_through=True)

    def is_closed(out):
        try:
            return bool(getattr(out, "closed", True))
        except Exception:
            return True  # its buffer was taken from it

    def replace_closed_streams():
        for name, descriptor, errors in (("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace")):
            if not is_closed(getattr(sys, name, None)):
                continue
            try:
                out = stream(descriptor, errors)
            except OSError:
                out = None  # as Python has it where the descriptor is closed
            setattr(sys, name, out)
            setattr(sys, "__%s__" % name, out)

    sys.stdout = sys.stderr = None
    replace_closed_streams()

    def undisturbed(work, *arguments):
        """Calls the library's code with builtins as they were at the start: user code can change those that all modules share."""
        theirs = {name: shared.get(name, absent) for name in pristine if shared.get(name, absent) is not pristine[name]}
        shared.update(pristine)
        try:
            return work(*arguments)
        finally:
            for name, value in theirs.items():
                if value is absent:
                    del shared[name]
                else:
                    shared[name] = value

    def encode(value):
        return undisturbed(to_json, value)

    def flush():
        for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
            try:
                getattr(sys, name).flush()
            except BaseException:
                pass
        # What C code has printed is in the C library's buffers, once something has loaded ctypes there may be such code.
        if state["fflush"] is None and "ctypes" in sys.modules:
            try:
                state["fflush"] = sys.modules["ctypes"].CDLL(None).fflush
            except BaseException:
                state["fflush"] = False
        if state["fflush"]:
            try:
                state["fflush"](None)
            except BaseException:
                pass

    def answer(kind, **fields):
        if state["forked"]:
            return
        fields["type"] = kind
        say(encode(fields))

    def say(text):
        # What is no text, half a surrogate pair, becomes a question mark.
        data = ("\n%s %s\n" % (state["token"], text)).encode("utf-8", "replace")
        try:
            while data:
                data = data[write_raw(answers, data):]
        except OSError:
            # Whoever closed it cut the kernel off; it can only end.
            exit_now(70)

    def receive():
        part = read_raw(requests, 1 << 16)
        if not part:
            exit_now(0)
        return part

    def next_request():
        # The next comes when this is answered, and not before.
        received = receive()
        while b"\n" not in received:
            received += receive()
        line, _, code = received.partition(b"\n")
        request, _ = scan(line.decode(), 0)
        length = request.pop("code")
        while len(code) < length:
            code += receive()
        return request, code

    # In a forked child nothing of this is left but the user's code: it ends with that, and says nothing to the agent.
    def forget():
        state["forked"] = True
        for descriptor in (requests, answers):
            try:
                close(descriptor)
            except OSError:
                pass

    os.register_at_fork(before=flush, after_in_child=forget)

    # Tracebacks.

    def is_plumbing(frame):
        return frame.f_code.co_filename == own

    def is_loop(frame):
        return str(frame.f_globals.get("__name__", "")).startswith("asyncio.")

    def without_plumbing(trace):
        if trace is not None and is_plumbing(trace.tb_frame):
            # Between the driver and code that awaits stands the event loop.
            while trace is not None and (is_plumbing(trace.tb_frame) or is_loop(trace.tb_frame)):
                trace = trace.tb_next
        current = trace
        while current is not None and current.tb_next is not None:
            if is_plumbing(current.tb_next.tb_frame):
                current.tb_next = current.tb_next.tb_next
            else:
                current = current.tb_next
        return trace

    def clean(error):
        """Takes the driver's frames out of an error and of all that it came from."""
        waiting, seen = [error], set()
        while waiting:
            error = waiting.pop()
            if not isinstance(error, BaseException) or id(error) in seen:
                continue
            seen.add(id(error))
            error.__traceback__ = without_plumbing(error.__traceback__)
            waiting += [error.__cause__, error.__context__]
            parts = getattr(error, "exceptions", ())
            waiting += parts if isinstance(parts, (tuple, list)) else ()

    def remember_source(name, code):
        sources[name] = (len(code), None, code.splitlines(True), name)
        if len(sources) > SOURCES:
            oldest = next(iter(sources))
            del sources[oldest]
            linecache.cache.pop(oldest, None)
        linecache.cache[name] = sources[name]

    def cut(text, limit):
        return text if len(text) <= limit else text[:limit] + "\n... (%d characters more)" % (len(text) - limit)

    def described(error):
        try:
            return str(error)
        except BaseException:
            return "<the error's own text cannot be had>"

    def formatted(error):
        return "".join(TracebackException(type(error), error, error.__traceback__).format())

    def text_of(error):
        clean(error)
        linecache.cache.update((name, source) for name, source in sources.items() if name not in linecache.cache)
        try:
            return undisturbed(formatted, error)
        except BaseException:
            return "%s: %s\n" % (type(error).__name__, described(error))

    def report(error):
        text = text_of(error)
        if state["forked"]:
            write_raw(2, text.encode("utf-8", "backslashreplace"))
            return
        name = type(error).__name__
        answer("error", name=name, value=cut(described(error), 1 << 16), traceback=cut(text, 1 << 18))

    # Values.

    def as_text(data):
        return base64.b64encode(data).decode("ascii") if isinstance(data, (bytes, bytearray)) else data

    METHODS = (
        ("_repr_html_", "text/html"),
        ("_repr_markdown_", "text/markdown"),
        ("_repr_latex_", "text/latex"),
        ("_repr_svg_", "image/svg+xml"),
        ("_repr_png_", "image/png"),
        ("_repr_jpeg_", "image/jpeg"),
        ("_repr_pdf_", "application/pdf"),
        ("_repr_javascript_", "application/javascript"),
        ("_repr_json_", "application/json"),
    )

    PLAIN = {bool, bytes, dict, float, int, list, set, str, tuple}  # types that offer none

    def offered(value):
        """The forms that a value offers, by media type. A form whose making fails is not there."""
        forms = {}
        if type(value) in PLAIN:
            return forms
        bundle = getattr(type(value), "_repr_mimebundle_", None)
        if callable(bundle):
            try:
                made = bundle(value)
                made = made[0] if isinstance(made, tuple) else made
                forms.update(made or {})
            except Exception:
                pass
        for method, media in METHODS:
            make = getattr(type(value), method, None)
            if media in forms or not callable(make):
                continue
            try:
                made = make(value)
                # A pair is the form and what describes it; JSON may well be a tuple of its own.
                if isinstance(made, tuple) and media != "application/json":
                    made = made[0]
                if made is not None:
                    forms[media] = made
            except Exception:
                pass
        return forms

    def bounded(forms):
        """Forms as members of an object in JSON, and the sizes of those that are too large."""
        kept, omitted, total = [], {}, 0
        for media, form in forms.items():
            if not isinstance(media, str):
                continue
            try:
                form = as_text(form)
                if not isinstance(form, str) and "json" not in media:
                    continue
                encoded = encode(form)
            except Exception:
                continue
            size = len(form) if isinstance(form, str) else len(encoded)
            if size > FORM or total + size > 2 * FORM:
                omitted[media] = size
            else:
                kept.append("%s:%s" % (encode(media), encoded))
                total += len(encoded)
        return kept, omitted

    def show(kind, forms):
        kept, omitted = bounded(forms)
        if (kept or omitted) and not state["forked"]:
            sizes = encode(omitted) if omitted else "{}"
            say('{"type":"%s","data":{%s},"omitted":%s}' % (kind, ",".join(kept), sizes))

    def is_figure(value):
        figure = sys.modules.get("matplotlib.figure")
        return figure is not None and isinstance(value, figure.Figure)

    def drawn(figure):
        import io

        image = io.BytesIO()
        figure.savefig(image, format="png", bbox_inches="tight")
        return {"image/png": image.getvalue(), "text/plain": repr(figure)}

    def show_value(value):
        if value is None:
            return
        if is_figure(value):
            forms = drawn(value)
            pyplot = sys.modules.get("matplotlib.pyplot")
            if pyplot is not None:
                pyplot.close(value)
        else:
            forms = offered(value)
        forms["text/plain"] = cut(forms["text/plain"] if isinstance(forms.get("text/plain"), str) else repr(value), TEXT)
        show("result", forms)

    def show_figures(*_arguments, **_keywords):
        """Sends the figures that are open, and closes them: what `pyplot.show` is here, and the end of each exec."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums") or state["forked"]:
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            show("display", drawn(figure))
            pyplot.close(figure)

    class Watcher:
        """Sees matplotlib.pyplot imported, so that its figures go to the agent and not to a window."""

        def find_spec(self, name, path=None, target=None):
            if name != "matplotlib.pyplot":
                return None
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.loader is not None:
                run = spec.loader.exec_module

                def exec_module(pyplot):
                    settings = sys.modules["matplotlib"].rcParams
                    # Unless somebody has chosen one: the search for a window to draw in takes long, and finds none.
                    if not isinstance(dict.get(settings, "backend"), str):
                        settings["backend"] = "agg"
                    run(pyplot)
                    pyplot.show = show_figures

                spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, Watcher())

    # Running.

    FUTURE = 0
    for feature in __import__("__future__").all_feature_names:
        FUTURE |= getattr(__import__("__future__"), feature).compiler_flag
    AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    KEYWORDS = frozenset(keyword.kwlist)
    COROUTINE = 0x80

    def compiled(tree, name, mode):
        code = compile(tree, name, mode, flags=state["flags"] | AWAIT, dont_inherit=True)
        state["flags"] |= code.co_flags & FUTURE
        return code

    def call(work, *arguments):
        """Calls what is the user's, under the tracing that the user has set."""
        try:
            set_profile(state["profile"])
            set_trace(state["trace"])
            return work(*arguments)
        finally:
            state["trace"], state["profile"] = get_trace(), get_profile()
            set_trace(None)
            set_profile(None)

    def ready_loop():
        """The event loop. Made before there is a coroutine, which would be left alone if this failed."""
        import asyncio

        if state["loop"] is None or state["loop"].is_closed():
            state["loop"] = asyncio.new_event_loop()
        asyncio.set_event_loop(state["loop"])
        return state["loop"]

    def evaluate(code):
        if not code.co_flags & COROUTINE:
            return call(eval, code, namespace)
        loop = undisturbed(ready_loop)
        value = call(eval, code, namespace)
        task = loop.create_task(value)
        try:
            return call(loop.run_until_complete, task)
        finally:
            if not task.done():
                task.cancel()
                try:
                    loop.run_until_complete(task)
                except BaseException:
                    pass

    def expression(code, name):
        """What is one expression in one line, compiled without a tree of objects, whose making is most of the work."""
        if "\n" in code.rstrip() or code[:1].isspace() or code.partition(" ")[0] in KEYWORDS:
            return None
        # Most of what would be tried in vain, and what warns as it is read: the warning would come twice.
        if "=" in code or ";" in code or "\\" in code:
            return None
        try:
            return compiled(code, name, "eval")
        except SyntaxError:
            return None  # it is told of what was tried last

    def run(code, name):
        only = expression(code, name)
        if only is not None:
            show_value(evaluate(only))
            show_figures()
            return
        tree = compile(code, name, "exec", flags=state["flags"] | AWAIT | ast.PyCF_ONLY_AST, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        # Both are compiled before anything runs, the first of them for the futures it may name.
        body = compiled(tree, name, "exec") if tree.body else None
        final = compiled(ast.Expression(last.value), name, "eval") if last is not None else None
        if body is not None:
            evaluate(body)
        if final is not None:
            show_value(evaluate(final))
        show_figures()

    def code_of(end):
        """What a process that ends so exits with."""
        if end.code is None:
            return 0
        if isinstance(end.code, int):
            return end.code & 0xFF
        try:
            print(end.code, file=sys.stderr)
        except BaseException:
            pass
        return 1

    def attempt(work):
        """Runs user code; returns its exit code and whether an interrupt ended it."""
        try:
            try:
                signal(SIGINT, state["on_interrupt"])
                work()
                return 0, False
            finally:
                keep = calm()
                state["on_interrupt"] = ignore if keep is None else keep
        except SystemExit as end:
            return code_of(end), False
        except KeyboardInterrupt as error:
            calm()
            report(error)
            return 130, True
        except BaseException as error:
            report(error)
            return 1, False

    def calm():
        """Has interrupts do nothing from here on, and returns what they did; one that is on its way is late."""
        while True:
            try:
                return signal(SIGINT, ignore)
            except KeyboardInterrupt:
                pass

    def ignore(_number, _frame):
        """An interrupt between two execs is late."""

    state.update(trace=None, profile=None, on_interrupt=default_int_handler)
    calm()

    def bytes_of(text):
        return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else bytes.fromhex(text["hex"])

    def set_environment(wanted):
        """Sets variables (None removes one) and returns what they were."""
        before = {name: environment.get(name) for name in wanted}
        for name, value in wanted.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        return before

    site = sys.modules.get("site")
    packages = site.getusersitepackages() if getattr(site, "ENABLE_USER_SITE", False) else None

    def see_new_packages():
        """Packages installed for the user since the start may have made their directory only now."""
        if packages is not None and packages not in sys.path and is_there(packages, 0) and os.path.isdir(packages):
            site.addsitedir(packages)

    def warm(names):
        """Imports modules ahead, outside the user's namespace; tells which could not be."""
        import importlib

        for name in names:
            try:
                importlib.import_module(name)
            except BaseException as error:
                answer("not_imported", name=name, reason="%s: %s" % (type(error).__name__, cut(described(error), 1 << 10)))

    # Waiting for a kernel, from before it is known which.

    def rehearse():
        """Has everything that the first code needs in memory, and leaves no trace of having run.

        Tells what an interpreter looks at when it starts, and not again.
        """
        directories = [*site.getsitepackages(), site.getusersitepackages()] if site is not None else []
        answer("looked_at", paths=[sys.executable, "/etc/localtime", *directories])
        name = NAME % 0
        remember_source(name, REHEARSAL[-1])
        try:
            return attempt(lambda: [run(code, name) for code in REHEARSAL])
        finally:
            del sources[name], linecache.cache[name]

    def adopt(adoption):
        """Becomes what an interpreter that is started now would be; tells whether it can."""
        try:
            os.chdir(bytes_of(adoption["cwd"]))
        except OSError:
            return 1, False
        for name, value in adoption["env"].items():
            if value is None:
                del environment[bytes_of(name)]
            else:
                environment[bytes_of(name)] = bytes_of(value)
        # What was drawn from the system before, others of the same template have as well.
        if "random" in sys.modules:
            sys.modules["random"].seed()
        return 0, False

    def execute(request, code):
        replace_closed_streams()
        if "rehearse" in request:
            return rehearse()
        if "adopt" in request:
            return adopt(request["adopt"])
        undisturbed(see_new_packages)
        if "imports" in request:
            return attempt(lambda: warm(request["imports"]))
        state["count"] += 1
        name = NAME % state["count"]
        text = code.decode("utf-8")
        remember_source(name, text)
        before = undisturbed(set_environment, {bytes_of(name): bytes_of(value) for name, value in request["env"].items()})
        try:
            return attempt(lambda: run(text, name))
        finally:
            undisturbed(set_environment, before)

    while True:
        request, code = next_request()
        state["token"] = request["token"]
        try:
            exit_code, interrupted = execute(request, code)
        except KeyboardInterrupt:
            exit_code, interrupted = 130, True
        calm()
        flush()
        if state["forked"] or get_pid() != process:
            exit_now(exit_code)
        if not state["forked"]:
            say('{"type":"done","code":%d,"interrupted":%s}' % (exit_code, "true" if interrupted else "false"))
        state["token"] = ""


def begin(sys):
    # The workspace, or what a variable of the environment adds, may hold a `json.py`: only the standard library's is for the driver.
    path = sys.path[:]
    library = sys.modules["os"].path.dirname(sys.modules["os"].__file__)
    sys.path[:] = [entry for entry in path if entry.startswith(library + "/lib-dynload") or entry == library]
    serve(int(sys.argv[1]), int(sys.argv[2]), path)


begin(__import__("sys"))
