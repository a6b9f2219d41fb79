#!/usr/bin/env python3
"""Print the public names of Python's socketserver module.

    names.py                   names of the running Python's module
    names.py FILE              names of that copy of socketserver.py (parsed, not imported)
    names.py --table 3.8=FILE 3.9=FILE ...
                               one table over several versions, oldest first

Without --table each line is  name<TAB>kind ; with it, each line is
name<TAB>first version<TAB>last version<TAB>kind.  Standard library only.

What is listed (from the syntax tree, in the order of the source):
  class               a class statement at module level, also inside `if hasattr(...)`
  module-dunder       __all__ and __version__
  class-attribute     a plain assignment in the class body
  method              a def in the class body whose name has no leading underscore
  special-method      __init__, __enter__, __exit__
  parameter           every parameter but self of an __init__, and of other public
                      methods those that have a default (keywords users pass)
  instance-attribute  self.NAME assigned in any method, where neither the class nor
                      a base class in the module already defines NAME
Names that start with an underscore, and everything in a class whose name does
(_Threads, _NoThreads, _SocketWriter), are left out, and so are imported modules.
A name is listed under each class whose body defines it, never where it is
merely inherited.
"""
import ast
import sys

SPECIAL = ("__init__", "__enter__", "__exit__")


def flat(body):
    """The statements of a body, those under `if` and `try` included."""
    for node in body:
        if isinstance(node, ast.If):
            yield from flat(node.body)
            yield from flat(node.orelse)
        elif isinstance(node, ast.Try):
            for part in (node.body, node.orelse, node.finalbody):
                yield from flat(part)
        else:
            yield node


def targets(node):
    """The expressions an assignment assigns to, tuples taken apart."""
    if isinstance(node, ast.Assign):
        todo = list(node.targets)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
        todo = [node.target]
    else:
        return
    while todo:
        target = todo.pop(0)
        if isinstance(target, (ast.Tuple, ast.List)):
            todo[:0] = target.elts
        else:
            yield target


def names(source):
    rows = []        # (name, kind)
    known = {}       # class -> every name it defines or inherits in this module
    for node in flat(ast.parse(source).body):
        for target in targets(node):
            if isinstance(target, ast.Name):
                if target.id in ("__all__", "__version__"):
                    rows.append((target.id, "module-dunder"))
                elif not target.id.startswith("_"):
                    rows.append((target.id, "module-data"))
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            rows.append((node.name, "function"))
        if not isinstance(node, ast.ClassDef):
            continue
        cls = node.name
        have = known[cls] = set()
        for base in node.bases:
            if isinstance(base, ast.Name):
                have |= known.get(base.id, set())
        public = not cls.startswith("_")
        if public:
            rows.append((cls, "class"))
        methods = []
        for item in flat(node.body):
            for target in targets(item):
                if isinstance(target, ast.Name):
                    have.add(target.id)
                    if public and not target.id.startswith("_"):
                        rows.append(("%s.%s" % (cls, target.id), "class-attribute"))
            if isinstance(item, ast.FunctionDef):
                have.add(item.name)
                methods.append(item)
        for item in methods:
            special = item.name in SPECIAL
            if public and (special or not item.name.startswith("_")):
                name = "%s.%s" % (cls, item.name)
                rows.append((name, "special-method" if special else "method"))
                args = item.args
                plain = list(getattr(args, "posonlyargs", [])) + list(args.args)
                late = len(plain) - len(args.defaults)
                for i, arg in enumerate(plain):
                    if i > 0 and (i >= late or item.name == "__init__"):
                        rows.append(("%s(%s)" % (name, arg.arg), "parameter"))
                for arg in args.kwonlyargs:
                    rows.append(("%s(%s)" % (name, arg.arg), "parameter"))
            for inner in ast.walk(item):
                for target in targets(inner):
                    if (isinstance(target, ast.Attribute)
                            and isinstance(target.value, ast.Name)
                            and target.value.id == "self"
                            and target.attr not in have):
                        have.add(target.attr)
                        if public and not target.attr.startswith("_"):
                            rows.append(("%s.%s" % (cls, target.attr),
                                         "instance-attribute"))
    seen = set()
    return [r for r in rows if not (r in seen or seen.add(r))]


def check_live(rows):
    """Compare the parsed names with the imported module (POSIX: every `if` is true)."""
    import inspect
    import socketserver
    classes = [n for n, k in rows if k == "class"]
    assert sorted(classes) == sorted(socketserver.__all__), "__all__ differs"
    live = [n for n, c in inspect.getmembers(socketserver, inspect.isclass)
            if c.__module__ == "socketserver" and not n.startswith("_")]
    assert sorted(live) == sorted(classes), "classes differ"
    for cls in classes:
        want = {n.split(".")[1] for n, k in rows
                if n.startswith(cls + ".")
                and k in ("class-attribute", "method", "special-method")}
        got = {n for n in vars(getattr(socketserver, cls))
               if not n.startswith("_") or n in SPECIAL}
        assert want == got, (cls, want ^ got)
    for name, kind in rows:
        if kind == "parameter":
            func, arg = name[:-1].split("(")
            cls, meth = func.split(".")
            sig = inspect.signature(getattr(getattr(socketserver, cls), meth))
            assert arg in sig.parameters, name


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def table(pairs):
    versions = [p.partition("=")[0] for p in pairs]
    found = {}           # (name, kind) -> versions it is in
    order = []
    for pair in pairs:
        version, _, path = pair.partition("=")
        here = names(read(path))
        for i, row in enumerate(here):
            if row not in found:
                found[row] = []
                # keep the order of the source: after the row before it
                at = order.index(here[i - 1]) + 1 if i else 0
                order.insert(at, row)
            found[row].append(version)
    for row in order:
        got = found[row]
        first, last = versions.index(got[0]), versions.index(got[-1])
        assert versions[first:last + 1] == got, ("a gap", row, got)
        print("\t".join((row[0], got[0], got[-1], row[1])))


def main(argv):
    if argv[:1] == ["--table"] and len(argv) > 1:
        table(argv[1:])
        return
    if len(argv) > 1 or argv and argv[0].startswith("-"):
        sys.exit(__doc__)
    if argv:
        rows = names(read(argv[0]))
    else:
        import inspect
        import socketserver
        rows = names(inspect.getsource(socketserver))
        check_live(rows)
    for name, kind in rows:
        print("%s\t%s" % (name, kind))


if __name__ == "__main__":
    main(sys.argv[1:])
