package fsm

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Nothing that Apply can reach may depend on the machine it runs on. What is
// forbidden, and why:
var forbiddenImports = map[string]string{
	"math/rand": "random values arrive inside commands", "math/rand/v2": "random values arrive inside commands",
	"crypto/rand": "random values arrive inside commands", "hash/maphash": "its seed differs in every process",
	"os": "no environment, no files", "os/exec": "no processes", "os/user": "no environment", "syscall": "no system calls",
	"net": "no network", "net/http": "no network", "runtime": "differs between machines", "unsafe": "addresses differ",
	"plugin": "no files", "github.com/google/uuid": "ids arrive inside commands",
}

var forbiddenTime = []string{"Now", "Since", "Until", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker", "Sleep", "Local", "LoadLocation"}

// TestNothingReachesClockRandomnessEnvironmentOrNetwork reads this package and
// all of ours that it imports, as far as they go.
func TestNothingReachesClockRandomnessEnvironmentOrNetwork(t *testing.T) {
	root := moduleRoot(t)
	todo, done := []string{"vcn/fsm"}, map[string]bool{}
	for len(todo) > 0 {
		pkg := todo[0]
		todo = todo[1:]
		if done[pkg] {
			continue
		}
		done[pkg] = true
		for _, file := range sources(t, filepath.Join(root, strings.TrimPrefix(pkg, "vcn/"))) {
			imports, problems := check(t, file)
			for _, p := range problems {
				t.Error(p)
			}
			for _, im := range imports {
				if strings.HasPrefix(im, "vcn/") {
					todo = append(todo, im)
				}
			}
		}
	}
	for pkg := range done {
		if pkg != "vcn/fsm" && pkg != "vcn/api" && !strings.HasPrefix(pkg, "vcn/internal/") {
			t.Errorf("fsm reaches %s: it may import api and internal leaves", pkg)
		}
	}
}

func moduleRoot(t *testing.T) string {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatalf("no go.mod above here: %v", err)
	return ""
}

func sources(t *testing.T, dir string) []string {
	all, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(all) == 0 {
		t.Fatalf("no sources in %s: %v", dir, err)
	}
	return slices.DeleteFunc(all, func(f string) bool { return strings.HasSuffix(f, "_test.go") })
}

// check reports what a file must not use, and returns its imports.
func check(t *testing.T, file string) (imports, problems []string) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	src, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // local name to path
	for _, im := range src.Imports {
		path, _ := strconv.Unquote(im.Path.Value)
		imports = append(imports, path)
		if why, no := forbiddenImports[path]; no {
			bad("%s imports %s: %s", file, path, why)
		}
		name := filepath.Base(path)
		if im.Name != nil {
			name = im.Name.Name
		}
		if name == "." {
			bad("%s has a dot import of %s, which hides what it uses", file, path)
		}
		names[name] = path
	}
	ast.Inspect(src, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Obj == nil && names[x.Name] == "time" && slices.Contains(forbiddenTime, sel.Sel.Name) {
			bad("%s uses time.%s: time is data", file, sel.Sel.Name)
		}
		return true
	})
	return imports, problems
}

// TestPurityCheckSeesWhatIsPlanted keeps the check above honest.
func TestPurityCheckSeesWhatIsPlanted(t *testing.T) {
	for name, src := range map[string]string{
		"time under another name": "package x\nimport t \"time\"\nvar f = t.Now\n",
		"randomness":              "package x\nimport _ \"math/rand/v2\"\n",
		"a dot import":            "package x\nimport . \"strings\"\n",
	} {
		file := filepath.Join(t.TempDir(), "x.go")
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, problems := check(t, file); len(problems) != 1 {
			t.Errorf("%s: found %q", name, problems)
		}
	}
}
