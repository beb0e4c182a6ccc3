// The javascript kernel's driver. Runs what the agent asks for in node's own global scope, and tells how it went.
//
// It is a function that node's first script calls. It reads requests from one descriptor and answers on another, both opened anew, since
// node closes only what it has opened itself when it starts a child. A request is a line of JSON and then as many bytes of code
// as it says. An answer is the request's token, a space and a line of JSON; what comes without the token is not the driver's.
//
// Code is evaluated by the inspector as at its console: `let` and `const` last and may be declared again, `await` stands anywhere, and the last
// value comes back. The driver itself is in a context of its own: user code cannot replace what its arrays and strings can do.
(function (node, requestsNumber, answersNumber) {
  'use strict';
  const { require, process, global, load } = node;
  const fs = require('fs');
  const net = require('net');
  const util = require('util');
  const { setImmediate } = require('timers');
  const vm = require('vm');
  const { Session } = require('inspector');
  const { Buffer } = require('buffer');

  const FORM = 2 << 20; // the most bytes of one form of a value
  const TEXT = 1 << 20; // the most characters of a value's text
  const { stringify, parse } = JSON;
  const { isNativeError, isUint8Array } = util.types;
  const { openSync, closeSync, writeSync } = fs;
  const { inspect } = util;
  const { apply, ownKeys } = Reflect;
  const { from, concat } = Buffer;
  const nextTick = process.nextTick.bind(process);
  const exitNow = process.reallyExit.bind(process);
  const environment = process.env;

  const reopened = (number, flags) => {
    const descriptor = openSync(`/proc/self/fd/${number}`, flags);
    closeSync(number);
    return descriptor;
  };
  const answers = reopened(answersNumber, 'w');
  const requests = new net.Socket({ fd: reopened(requestsNumber, 'r'), readable: true, writable: false });

  const writeAll = (descriptor, data) => {
    for (let at = 0; at < data.length; ) at += writeSync(descriptor, data, at, data.length - at);
  };

  // Output is out when it is written, whatever happens to the process next; and an interrupt in the midst of it leaves no stream in
  // between two states, from which it would write no more.
  for (const output of [process.stdout, process.stderr]) {
    const descriptor = output.fd;
    if (output._handle && output._handle.setBlocking) output._handle.setBlocking(true);
    output.write = function (chunk, encoding, callback) {
      const done = typeof encoding === 'function' ? encoding : callback;
      writeAll(descriptor, typeof chunk === 'string' ? from(chunk, typeof encoding === 'string' ? encoding : 'utf8') : chunk);
      if (typeof done === 'function') nextTick(done);
      return true;
    };
    // It is the next code's, too.
    output.end = function (chunk, encoding, callback) {
      const done = [chunk, encoding, callback].find((argument) => typeof argument === 'function');
      if (chunk !== undefined && chunk !== null && chunk !== done) output.write(chunk, encoding);
      if (done) nextTick(done);
      return output;
    };
    output.destroy = output.destroySoon = () => output;
  }

  let token = '';
  let count = 0;
  let running = null;

  // Half a surrogate pair is no text: it becomes a replacement character.
  const well = (text) => from(text, 'utf8').toString('utf8');
  const cut = (text, limit) => (text.length <= limit ? text : `${text.slice(0, limit)}\n... (${text.length - limit} characters more)`);

  function answer(kind, fields) {
    // Without prototypes there is nobody's `toJSON`.
    const message = Object.assign(Object.create(null), fields, { type: kind });
    try {
      writeAll(answers, from(`\n${token} ${stringify(message)}\n`, 'utf8'));
    } catch {
      // Whoever closed it cut the kernel off; it can only end.
      exitNow(70);
    }
  }

  // Values.

  const METHODS = [
    ['_repr_html_', 'text/html'],
    ['_repr_markdown_', 'text/markdown'],
    ['_repr_latex_', 'text/latex'],
    ['_repr_svg_', 'image/svg+xml'],
    ['_repr_png_', 'image/png'],
    ['_repr_jpeg_', 'image/jpeg'],
    ['_repr_json_', 'application/json'],
  ];
  const DISPLAY = Symbol.for('Jupyter.display');

  // The forms that a value offers, by media type. A form whose making fails is not there.
  function offered(value) {
    const forms = Object.create(null);
    const attempt = (make) => {
      try {
        make();
      } catch {
        // It is not there.
      }
    };
    attempt(() => {
      if (typeof value[DISPLAY] === 'function') Object.assign(forms, value[DISPLAY]());
    });
    for (const [method, media] of METHODS) {
      attempt(() => {
        if (!(media in forms) && typeof value[method] === 'function') {
          const made = value[method]();
          if (made !== undefined && made !== null) forms[media] = made;
        }
      });
    }
    return forms;
  }

  function show(kind, forms) {
    const data = Object.create(null);
    const omitted = Object.create(null);
    let total = 0;
    for (const media of ownKeys(forms)) {
      if (typeof media !== 'string') continue;
      try {
        const form = isUint8Array(forms[media]) ? from(forms[media]).toString('base64') : forms[media];
        // What JSON makes of it, now: not what it may become.
        const text = typeof form === 'string' ? well(form) : parse(well(stringify(form)));
        const size = from(stringify(text), 'utf8').length;
        if (size > FORM || total + size > 2 * FORM) {
          omitted[media] = size;
        } else {
          data[media] = text;
          total += size;
        }
      } catch {
        // What is no JSON cannot be sent.
      }
    }
    answer(kind, ownKeys(omitted).length > 0 ? { data, omitted } : { data });
  }

  function showValue(value) {
    if (value === undefined) return;
    const forms = value !== null && (typeof value === 'object' || typeof value === 'function') ? offered(value) : Object.create(null);
    if (typeof forms['text/plain'] !== 'string') forms['text/plain'] = inspect(value, { maxStringLength: TEXT });
    forms['text/plain'] = cut(forms['text/plain'], TEXT);
    show('result', forms);
  }

  // Errors.

  // Every stack is made without the frames of the driver, and of what it has called to run the code; whoever else prepares stacks is given
  // those that are left. Users read a function of ours for the one that they have set, and it does the same where they set it again.
  const { splice } = Array.prototype;
  const describe = global.Error.prototype.toString;
  const fileOf = (frame) => frame && frame.getFileName();
  const isDriver = (frame) => fileOf(frame) === 'hearth-driver';
  function takePlumbingOut(frames) {
    for (let at = 0; at < frames.length; at += 1) {
      // What is cut off by the limit of a stack's length was the driver's call.
      const begins = fileOf(frames[at]) === 'node:inspector' && (at + 1 === frames.length || isDriver(frames[at + 1]));
      if (begins) apply(splice, frames, [at, frames.length - at]);
      else if (isDriver(frames[at])) apply(splice, frames, [at--, 1]);
    }
  }
  function plain(error, frames) {
    let text = '';
    try {
      text = apply(describe, error, []);
    } catch {
      text = '<error>';
    }
    for (let at = 0; at < frames.length; at += 1) text += `\n    at ${frames[at]}`;
    return text;
  }
  const preparers = new WeakMap();
  const preparerOf = (users) => {
    const preparer = (error, frames) => {
      takePlumbingOut(frames);
      return typeof users === 'function' ? apply(users, global.Error, [error, frames]) : plain(error, frames);
    };
    preparers.set(preparer, users);
    return preparer;
  };
  let preparer = preparerOf(undefined);
  Object.defineProperty(global.Error, 'prepareStackTrace', {
    configurable: true,
    get: () => preparer,
    set: (users) => {
      preparer = preparerOf(preparers.has(users) ? preparers.get(users) : users);
    },
  });

  // The user's part of a stack: it ends where the driver begins.
  function withoutPlumbing(stack) {
    const lines = stack.split('\n');
    const end = lines.findIndex((line) => /^\s+at .*(node:inspector|hearth-driver|node:internal\/process\/task_queues)/.test(line));
    return (end < 0 ? lines : lines.slice(0, end)).join('\n');
  }

  function textOf(error, place) {
    if (!isNativeError(error)) return `Uncaught ${inspect(error)}`;
    let text = typeof error.stack === 'string' ? withoutPlumbing(error.stack) : inspect(error);
    if (place) text = `${place}\n${text}`;
    for (let cause = error.cause, depth = 0; isNativeError(cause) && depth < 10; cause = cause.cause, depth += 1) {
      text += `\n[cause]: ${withoutPlumbing(String(cause.stack))}`;
    }
    return text;
  }

  function report(error, place) {
    let [name, value, traceback] = ['Error', '', ''];
    try {
      name = isNativeError(error) ? String(error.name) : typeof error;
      value = isNativeError(error) ? String(error.message) : inspect(error);
      traceback = textOf(error, place);
    } catch {
      // The error's own text cannot be had.
    }
    answer('error', { name: well(name), value: well(cut(value, 1 << 16)), traceback: well(cut(traceback, 1 << 18)) });
  }

  // An error of work that goes on behind the code that began it ends nothing.
  process.setUncaughtExceptionCaptureCallback((error) => {
    let text = 'Uncaught error';
    try {
      text = textOf(error);
    } catch {
      // It cannot be told.
    }
    try {
      writeSync(2, `${text}\n`);
    } catch {
      // Nobody hears it.
    }
  });

  // Running.

  const session = new Session();
  session.connect();
  // Its values are remote objects even here; what they stand for is had by a call to this.
  let given;
  const take = (value) => {
    given = { value };
  };
  const post = (method, parameters) => {
    let answered;
    session.post(method, parameters, (error, result) => {
      answered = { error, result };
    });
    return answered;
  };
  const sinkName = `hearth${Math.random()}`;
  global[sinkName] = take;
  const sink = post('Runtime.evaluate', { expression: `globalThis[${stringify(sinkName)}]` }).result.result.objectId;
  delete global[sinkName];

  function valueOf(remote) {
    if (remote.type === 'undefined') return undefined;
    const argument = Object.create(null);
    if (remote.objectId !== undefined) argument.objectId = remote.objectId;
    else if (remote.unserializableValue !== undefined) argument.unserializableValue = remote.unserializableValue;
    else argument.value = remote.value;
    given = undefined;
    post('Runtime.callFunctionOn', { objectId: sink, functionDeclaration: 'function (value) { this(value); }', arguments: [argument] });
    return given && given.value;
  }

  // The module loader is not the console's: what imports is pointed to one that is.
  Object.defineProperty(global, '__hearth_import', { value: load, enumerable: false });

  // Copies code with each `import` that it holds pointed to the loader; text, comments and expressions of their own kind are passed over.
  function withImports(code) {
    if (!code.includes('import')) return code;
    const TOKEN =
      /\/\/[^\n]*|\/\*[^]*?\*\/|'(?:\\[^]|[^'\\\n])*'|"(?:\\[^]|[^"\\\n])*"|`(?:\\[^]|[^`\\])*`|(^|[;\n}])([ \t]*)import\s+((?:[\w$*{][^'"`;()]*?\sfrom\s*)?)(['"])([^'"\n]+)\4[ \t]*;?|(?<![.\w$])import(?=\s*\()/g;
    return code.replace(TOKEN, (found, before, indent, names, _quote, from) => {
      if (found === 'import') return '__hearth_import';
      if (from === undefined) return found;
      return `${before}${indent}${declared(names.replace(/\sfrom\s*$/, '').trim(), `await __hearth_import(${stringify(from)})`)};`;
    });
  }

  // The declaration that stands for an import of `names` from `module`.
  function declared(names, module) {
    if (names === '') return module;
    const all = /^\*\s+as\s+([\w$]+)$/.exec(names);
    if (all) return `const ${all[1]} = ${module}`;
    const parts = /^(?:([\w$]+)\s*,?\s*)?(?:\{([^]*)\}|\*\s+as\s+([\w$]+))?$/.exec(names);
    if (!parts) return `const ${names} = ${module}`;
    const [, main, some, space] = parts;
    if (space) return `const ${space} = ${module}, ${main} = ${space}.default`;
    const picked = (some || '').split(',').map((name) => name.trim().replace(/\s+as\s+/, ': ')).filter(Boolean);
    return `const { ${[...(main ? [`default: ${main}`] : []), ...picked].join(', ')} } = ${module}`;
  }

  const guard = vm.createContext(Object.create(null));

  // Evaluates code and calls `end` with the inspector's answer, or with `null` when an interrupt ended it.
  function evaluate(expression, end) {
    let ended = false;
    const once = (answered) => {
      if (!ended) {
        ended = true;
        running = null;
        end(answered);
      }
    };
    running = () => once(null);
    const begin = () =>
      session.post('Runtime.evaluate', { expression, replMode: true, awaitPromise: false, objectGroup: 'exec' }, (error, result) => {
        once({ error, result });
      });
    guard.begin = begin;
    try {
      // While this is on the stack an interrupt ends whatever runs.
      vm.runInContext('begin()', guard, { breakOnSigint: true });
    } catch {
      once(null);
    }
  }

  // The agent sends SIGURG first. It is taken when no code is on the stack, and never while the SIGINT handlers change, as they do around
  // code that a SIGINT breaks.
  for (const signal of ['SIGURG', 'SIGINT']) {
    process.on(signal, () => {
      if (running) running();
    });
  }

  function finish(code, interrupted) {
    answer('done', { code, interrupted });
    token = '';
  }

  function execute(request, code) {
    count += 1;
    const name = `exec-${count}.js`;
    const before = Object.create(null);
    for (const key of ownKeys(request.env)) {
      const value = request.env[key];
      before[key] = environment[key];
      environment[key] = typeof value === 'string' ? value : from(value.hex, 'hex').toString('utf8');
    }
    const end = (exitCode, interrupted) => {
      for (const key of ownKeys(before)) {
        if (before[key] === undefined) delete environment[key];
        else environment[key] = before[key];
      }
      post('Runtime.releaseObjectGroup', { objectGroup: 'exec' });
      finish(exitCode, interrupted);
    };
    evaluate(`${withImports(code)}\n//# sourceURL=${name}`, (answered) => {
      if (answered === null) {
        const error = new Error('Script execution was interrupted');
        error.name = 'Interrupted';
        error.stack = 'Interrupted: Script execution was interrupted';
        report(error);
        return end(130, true);
      }
      const { error, result } = answered;
      try {
        if (error) throw new Error(error.message);
        if (result.exceptionDetails) {
          const details = result.exceptionDetails;
          const thrown = valueOf(details.exception || result.result);
          report(thrown, placeOf(thrown, details, name, code));
          return end(1, false);
        }
        showValue(valueOf(result.result));
      } catch (failure) {
        report(failure);
        return end(1, false);
      }
      return end(0, false);
    });
  }

  // Where code cannot be read, as node shows it; not for errors of text that the code itself had evaluated.
  function placeOf(thrown, details, name, code) {
    if (!isNativeError(thrown) || thrown.name !== 'SyntaxError' || /^\s+at /m.test(withoutPlumbing(String(thrown.stack)))) return undefined;
    const lines = code.split('\n');
    const number = Math.min(details.lineNumber, lines.length - 1);
    const column = number === details.lineNumber ? details.columnNumber : lines[number].length;
    return `${name}:${number + 1}\n${lines[number]}\n${' '.repeat(column)}^\n`;
  }

  // Loads modules ahead; tells which could not be.
  function warm(names) {
    const failed = (name) => (error) => {
      answer('not_imported', { name, reason: well(cut(`${error && error.name}: ${error && error.message}`, 1 << 10)) });
    };
    Promise.all(names.map((name) => load(name).catch(failed(name)))).then(() => finish(0, false));
  }

  // Requests.

  let received = [];
  let length = 0;
  let awaited = null;

  function next() {
    const all = () => {
      received = [received.length === 1 ? received[0] : concat(received)];
      return received[0];
    };
    if (awaited === null && length > 0) {
      const bytes = all();
      const end = bytes.indexOf(10);
      if (end < 0) return;
      awaited = parse(bytes.toString('utf8', 0, end));
      received = [bytes.subarray(end + 1)];
      length -= end + 1;
    }
    if (awaited === null || length < awaited.code) return;
    const bytes = all();
    const request = awaited;
    const code = bytes.toString('utf8', 0, request.code);
    received = [bytes.subarray(request.code)];
    length -= request.code;
    awaited = null;
    token = request.token;
    // Signals that were meant for the code before are taken ahead of this.
    setImmediate(() => (request.imports ? warm(request.imports) : execute(request, code)));
  }

  requests.on('data', (bytes) => {
    received.push(bytes);
    length += bytes.length;
    next();
  });
  requests.on('end', () => exitNow(0));
  requests.on('error', () => exitNow(0));
})
