package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	fileLinesMax = 500
	funcLinesMax = 75
)

// thirdPartyWalls says which rooms may import a module, and why only those.
var thirdPartyWalls = []struct {
	module string
	rooms  []string
	why    string
}{
	{"github.com/danielgtaylor/huma", []string{"daemon/httpapi"}, "the web framework may change without the rest noticing"},
	{"github.com/hashicorp/raft", []string{"cluster", "fsm"}, "only the cluster engine runs Raft; fsm needs its FSM types"},
	{"github.com/hashicorp/raft-boltdb", []string{"cluster"}, "only the cluster engine runs Raft"},
	{"github.com/hashicorp/raft-autopilot", []string{"cluster"}, "only the cluster engine runs Raft"},
	{"github.com/hashicorp/memberlist", []string{"cluster"}, "only the cluster engine gossips"},
	{"github.com/digitalocean/go-libvirt", []string{"hostops/libvirt"}, "one driver speaks to libvirt"},
	{"github.com/vishvananda/netlink", []string{"hostops/netlink"}, "one driver makes links"},
	{"github.com/cilium/ebpf", []string{"hostops/netlink"}, "filters belong to links"},
	{"github.com/gostor/gotgt", []string{"hostops/iscsi"}, "what was measured wrong in it is overridden in one place"},
	{"github.com/teambition/rrule-go", []string{"api"}, "what is wrong in it is kept from everybody in one place"},
	{"github.com/arran4/golang-ical", []string{"api/ical"}, "one room writes calendars"},
	{"github.com/spf13/cobra", []string{"cli", "daemon/vcnd"}, "commands are flags and their help"},
}

// ours says what rooms of ours a room may import: a longer prefix wins. Rooms
// that are not named may import anything of ours.
var ours = map[string][]string{
	"api":                        {"api"},
	"internal":                   {},
	"placement":                  {"internal"},
	"cluster":                    {"cluster", "internal"},
	"fsm":                        {"api", "internal"},
	"rolls":                      {"rolls", "internal"},
	"hostops":                    {"hostops", "rolls", "internal"},
	"cli":                        {"api", "cli", "internal"},
	"cli/vcnctl":                 {"api", "cli", "daemon/simulate"},
	"daemon/agent":               {"api", "fsm", "hostops", "rolls", "internal"},
	"daemon/control":             {"api", "fsm", "placement", "rolls", "cluster/pki", "internal"},
	"daemon/httpapi":             {"api", "fsm", "daemon/httpapi", "internal"},
	"daemon/httpapi/agentclient": {"api", "fsm", "internal"},
	"daemon/notify":              {"internal"},
	"daemon/simulate":            {"api", "fsm", "placement", "rolls", "daemon/control", "internal"},
	"daemon/simulate/swf":        {},
}

// inTests may also be imported by a room's tests.
var inTests = []string{"hostops", "fsm", "rolls", "daemon/control", "cluster/pki", "internal", "api"}

type file struct {
	path, room string
	test       bool
	ast        *ast.File
	fset       *token.FileSet
	lines      int
}

func parseTree(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") && name != ".." || name == "testdata" || name == "build") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		files = append(files, file{
			path: rel, room: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(name, "_test.go"),
			ast: f, fset: fset, lines: strings.Count(string(src), "\n"),
		})
		return nil
	})
	if err != nil {
		t.Fatalf("read the tree: %v", err)
	}
	if len(files) < 50 {
		t.Fatalf("read only %d Go files: the walk is broken", len(files))
	}
	return files
}

// within tells whether a path is a room or lies in it.
func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func imports(f file) []string {
	var out []string
	for _, im := range f.ast.Imports {
		p, err := strconv.Unquote(im.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

func TestThirdPartyModulesStayBehindTheirWalls(t *testing.T) {
	for _, f := range parseTree(t) {
		for _, im := range imports(f) {
			for _, w := range thirdPartyWalls {
				if im != w.module && !strings.HasPrefix(im, w.module+"/") {
					continue
				}
				if !slices.ContainsFunc(w.rooms, func(r string) bool { return within(f.room, r) }) {
					t.Errorf("%s imports %s: only %v may: %s", f.path, im, w.rooms, w.why)
				}
			}
		}
	}
}

func TestRoomsImportOnlyWhatTheirDocSays(t *testing.T) {
	for _, f := range parseTree(t) {
		rule := ""
		for room := range ours {
			if within(f.room, room) && len(room) > len(rule) {
				rule = room
			}
		}
		if rule == "" {
			continue
		}
		for _, im := range imports(f) {
			rel, ok := strings.CutPrefix(im, "vcn/")
			if !ok || within(rel, rule) {
				continue
			}
			allowed := ours[rule]
			if f.test {
				allowed = append(slices.Clone(allowed), inTests...)
			}
			if !slices.ContainsFunc(allowed, func(r string) bool { return within(rel, r) }) {
				t.Errorf("%s imports vcn/%s: room %s may import only %v of ours", f.path, rel, rule, allowed)
			}
		}
	}
}

func TestEveryPackageHasADocWithAPicture(t *testing.T) {
	docs := map[string]string{}
	rooms := map[string]bool{}
	for _, f := range parseTree(t) {
		rooms[f.room] = true
		if filepath.Base(f.path) == "doc.go" && f.ast.Doc != nil {
			docs[f.room] = f.ast.Doc.Text()
		}
	}
	for room := range rooms {
		doc, ok := docs[room]
		switch {
		case !ok:
			t.Errorf("%s has no doc.go with a package comment", room)
		case !strings.ContainsAny(doc, "─▶│"):
			t.Errorf("%s/doc.go draws no picture of its flow", room)
		}
	}
}

func TestFilesAndFunctionsStaySmall(t *testing.T) {
	for _, f := range parseTree(t) {
		if f.lines > fileLinesMax {
			t.Errorf("%s has %d lines, want at most %d: is there more than one room in it?", f.path, f.lines, fileLinesMax)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil || f.test {
				continue
			}
			n := f.fset.Position(fn.End()).Line - f.fset.Position(fn.Pos()).Line + 1
			if n > funcLinesMax {
				t.Errorf("%s: function %s has %d lines, want at most %d", f.path, fn.Name.Name, n, funcLinesMax)
			}
		}
	}
}

func TestNoTestIsSkipped(t *testing.T) {
	for _, f := range parseTree(t) {
		if !f.test {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				t.Errorf("%s: a test is skipped: what a test needs, make test installs", f.fset.Position(sel.Pos()))
			}
			return true
		})
	}
}
