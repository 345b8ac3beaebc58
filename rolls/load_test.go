package rolls

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
)

func TestLoadReadsAWholeRoll(t *testing.T) {
	r := mustLoad(t, slurmYAML, with(slurmFiles, "extra/data.txt", "for a script"))
	if r.ID() != "slurm@22.5" || r.Apply["frontend"].Packages[0] != "slurmctld" || string(r.Files["extra/data.txt"]) != "for a script" {
		t.Errorf("got %+v", r)
	}
	if _, ok := r.Files[rollFile]; ok {
		t.Error("roll.yaml is among its own files")
	}
}

// at is a roll with these lines under apply's "*".
func at(lines string) string { return minimal + lines }

const secret = "secrets: [{name: key, kind: ssh-ed25519, per: user}, {name: r, kind: random}]\n"

// loadFaults is wrong rolls, and what must be said about each.
var loadFaults = []struct{ name, yaml, want string }{
	{"an unknown field", minimal + "    pakages: [vim]\n", `roll r: roll.yaml: want the fields of docs/rolls.md: unknown field "pakages"`},
	{"a field twice", "name: a\nname: b\n", `already set in map`},
	{"no yaml", "{", `roll r: roll.yaml: want the fields of docs/rolls.md`},
	{"nothing", "", `roll r: name: want 1-40 of a-z`},
	{"a name in capitals", strings.Replace(minimal, "mini", "Mini", 1), `roll Mini: name: "Mini": want 1-40 of a-z, 0-9 and '-', starting with a letter`},
	{"a version with letters", strings.Replace(minimal, `"1"`, `"1.x"`, 1), `roll mini: version: "1.x": want 1-4 numbers with dots, such as 1.2`},
	{"a description of two lines", strings.Replace(minimal, "description: d", `description: "d\nd"`, 1), `roll mini: description: "d\nd": want one line`},
	{"no appliance", "name: a\nversion: \"1\"\ndescription: d\n", `roll a: apply: want at least one appliance`},
	{"an odd appliance", "name: a\nversion: \"1\"\ndescription: d\napply: {Worker: {}}\n", `roll a: apply: "Worker": want "*" or an appliance's name`},
	{"itself required", "requires: [mini]\n" + minimal, `roll mini: requires[0]: "mini": want another roll than itself`},
	{"one roll required twice", "requires: [a, a@1]\n" + minimal, `roll mini: requires[1]: "a@1": want each roll once`},
	{"an odd requirement", "requires: [a@]\n" + minimal, `roll mini: requires[0]: "a@": want name or name@version`},
	{"a conflict with what it requires", "requires: [a]\nconflicts: [a]\n" + minimal, `roll mini: conflicts[0]: "a": want a roll that it neither is nor requires`},
	{"a conflict with a version", "conflicts: [a@1]\n" + minimal, `roll mini: conflicts[0]: "a@1": want a roll's name, without version`},
	{"a secret of no kind", "secrets: [{name: s, kind: rsa}]\n" + minimal, `roll mini: secrets[0].kind: "rsa": want random or ssh-ed25519`},
	{"a huge secret", "secrets: [{name: s, kind: random, bytes: 5000}]\n" + minimal, `roll mini: secrets[0].bytes: "5000": want 1-4096`},
	{"bytes of a key pair", "secrets: [{name: s, kind: ssh-ed25519, bytes: 5}]\n" + minimal, `roll mini: secrets[0].bytes: "5": want nothing with ssh-ed25519`},
	{"a secret per planet", "secrets: [{name: s, kind: random, per: planet}]\n" + minimal, `roll mini: secrets[0].per: "planet": want cluster, node or user`},
	{"a secret twice", "secrets: [{name: s, kind: random}, {name: s, kind: random}]\n" + minimal, `roll mini: secrets[1].name: "s": want each secret once`},
	{"a package with a shell in it", at("    packages: ['vim;reboot']\n"), `roll mini: apply.*.packages[0]: "vim;reboot": want a Debian package's name`},
	{"a package option", at("    packages: ['--force']\n"), `apply.*.packages[0]: "--force"`},
	{"a unit without suffix", at("    enable: [sshd]\n"), `roll mini: apply.*.enable[0]: "sshd": want a systemd unit with its suffix`},
	{"a unit with a path", at("    disable: [../x.service]\n"), `apply.*.disable[0]: "../x.service"`},
	{"a unit both ways", at("    enable: [a.service]\n    disable: [a.service]\n"), `apply.*.enable[0]: "a.service": want a unit that is not also in disable`},
	{"a script that is not there", at("    scripts: [no.sh]\n"), `apply.*.scripts[0]: "no.sh": want a file in the roll's directory`},
	{"a script elsewhere", at("    firstRun: [../roll.yaml]\n"), `apply.*.firstRun[0]: "../roll.yaml": want a file in the roll's directory`},
	{"an empty command", at("    ready: ['  ']\n"), `apply.*.ready[0]: "  ": want a shell command`},
	{"a command that is no template", at("    ready: ['{{if}}']\n"), `apply.*.ready: want a valid template`},
	{"a relative path", at("    files: [{path: etc/x, source: f}]\n"), `apply.*.files[0].path: "etc/x": want an absolute path`},
	{"a path that climbs", at("    files: [{path: /etc/../x, source: f}]\n"), `apply.*.files[0].path: "/etc/../x": want an absolute path without '..'`},
	{"a path with a newline", at("    files: [{path: \"/etc/a\\nb\", source: f}]\n"), `want a path without control characters`},
	{"a path of vcn's own", at("    seed: [{path: /etc/vcn/node.json, source: f}]\n"), `"/etc/vcn/node.json": want a path that vcn does not write itself`},
	{"a path in vcn's own directory", at("    seed: [{path: /etc/vcn/ready.d/x, source: f}]\n"), `want a path that vcn does not write itself`},
	{"a path twice", at("    files: [{path: /x, source: f}, {path: /x, source: f}]\n"), `apply.*.files[1].path: "/x": want each path once`},
	{"a mode as a number", at("    files: [{path: /x, source: f, mode: 0644}]\n"), `roll r: apply.*.files[0].mode: "420": want it in quotes`},
	{"a version as a number", strings.Replace(minimal, `"1"`, `1.10`, 1), `roll r: version: "1.1": want it in quotes`},
	{"a mode with an 8", at("    files: [{path: /x, source: f, mode: '0648'}]\n"), `apply.*.files[0].mode: "0648": want four octal digits`},
	{"a setuid mode", at("    files: [{path: /x, source: f, mode: '4755'}]\n"), `apply.*.files[0].mode: "4755": want four octal digits, "0000"-"1777" (no setuid, no setgid)`},
	{"an owner by number", at("    files: [{path: /x, source: f, owner: '0:0'}]\n"), `apply.*.files[0].owner: "0:0": want user:group, by name`},
	{"an owner without group", at("    files: [{path: /x, source: f, owner: root}]\n"), `apply.*.files[0].owner: "root": want user:group, by name`},
	{"neither source nor secret", at("    files: [{path: /x}]\n"), `apply.*.files[0].source: want exactly one of source, secret and dir: true`},
	{"source and dir", at("    files: [{path: /x, source: f, dir: true}]\n"), `exactly one of source, secret and dir`},
	{"a source that is not there", at("    seed: [{path: /x, source: g}]\n"), `apply.*.seed[0].source: "g": want a file in the roll's directory`},
	{"a secret in an image", secret + at("    files: [{path: /x, secret: r}]\n"), `apply.*.files[0].secret: "r": want nothing: images hold no secrets`},
	{"a secret that is not declared", secret + at("    seed: [{path: /x, secret: q}]\n"), `apply.*.seed[0].secret: "q": want a secret that the roll declares`},
	{"the public half of a random one", secret + at("    seed: [{path: /x, secret: r.pub}]\n"), `apply.*.seed[0].secret: "r.pub"`},
	{"a user's secret without user", secret + at("    seed: [{path: /x, secret: key}]\n"), `apply.*.seed[0].secret: "key": want forEach: user`},
	{"a secret of a roll not required", at("    seed: [{path: /x, secret: slurm/munge}]\n"), `apply.*.seed[0].secret: "slurm/munge": want name, or roll/name with a roll that it requires`},
	{"users in an image", at("    files: [{path: '/x/{{.User.Name}}', source: f, forEach: user}]\n"), `apply.*.files[0].forEach: "user": want nothing: images know no users`},
	{"one path for all users", at("    seed: [{path: /x, source: f, forEach: user}]\n"), `want with forEach: user, a path with {{.User.Name}}`},
	{"a template in a path", at("    seed: [{path: '/x/{{.Node.Name}}', source: f}]\n"), `want a path without control characters, braces`},
	{"for each node", at("    seed: [{path: /x, source: f, forEach: node}]\n"), `apply.*.seed[0].forEach: "node": want nothing, or user`},
	{"an odd when", at("    seed: [{path: /x, source: f, when: never}]\n"), `apply.*.seed[0].when: "never": want nothing, or always`},
	{"a broken template", at("    seed: [{path: /x, source: broken}]\n"), `apply.*.seed[0].source: want a valid template: 1:`},
	{"a template with an unknown function", at("    seed: [{path: /x, source: func}]\n"), `function "env" not defined`},
	{"a template with a user's secret without user", secret + at("    seed: [{path: /x, source: mine}]\n"), `apply.*.seed[0].source: "key.pub": want forEach: user`},
	{"a template with an unknown secret", at("    seed: [{path: /x, source: sec}]\n"), `apply.*.seed[0].source: "nope": want a secret that the roll declares`},
}

func TestLoadNamesFieldValueAndWhatIsRight(t *testing.T) {
	for _, tc := range loadFaults {
		t.Run(tc.name, func(t *testing.T) {
			r, err := Load(dir(tc.yaml, map[string]string{"f": "x", "broken": "{{", "func": "{{env}}", "mine": `{{secret "key.pub"}}`,
				"sec": `{{if true}}{{range .Nodes}}{{trim (secretNode "nope" .Name)}}{{end}}{{end}}`}), "r")
			if r != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestATemplateMayNameUsersSecretsUserByUser(t *testing.T) {
	mustLoad(t, "secrets: [{name: key, kind: ssh-ed25519, per: user}]\n"+minimal+"    seed: [{path: /x, source: f}]\n",
		map[string]string{"f": `{{range .Users}}{{secretUser "key.pub" .Name}}{{end}}`})
}

func TestLoadReportsAllFaultsAtOnce(t *testing.T) {
	_, err := Load(dir("name: A\nversion: x\ndescription: d\n", nil), "r")
	for _, want := range []string{"name:", "version:", "apply:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: does not speak of %s", err, want)
		}
	}
}

func TestLoadKeepsItsLimits(t *testing.T) {
	many := map[string]string{}
	for i := range FilesMax + 1 {
		many[fmt.Sprint(i)] = ""
	}
	heavy := map[string]string{}
	for i := range RollBytesMax/FileBytesMax + 1 {
		heavy[fmt.Sprint(i)] = strings.Repeat("x", FileBytesMax)
	}
	for name, fsys := range map[string]fs.FS{
		"a long roll.yaml": dir(strings.Repeat("#", RollFileBytesMax+1), nil),
		"a big file":       dir(minimal, map[string]string{"f": strings.Repeat("x", FileBytesMax+1)}),
		"many files":       dir(minimal, many),
		"many megabytes":   dir(minimal, heavy),
	} {
		if _, err := Load(fsys, "r"); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := minimal + "    packages: [" + strings.Repeat("vim, ", ListMax) + "vim]\n"
	if _, err := Load(dir(long, nil), "r"); err == nil || !strings.Contains(err.Error(), `"513": want at most 512 entries`) {
		t.Errorf("a long list: %v", err)
	}
}

func TestLoadRefusesLinksAndAbsentRolls(t *testing.T) {
	fsys := dir(minimal, nil)
	fsys["r/link"] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte("/etc/shadow")}
	if _, err := Load(fsys, "r"); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "want a regular file") {
		t.Errorf("a link: %v", err)
	}
	if _, err := Load(fstest.MapFS{}, "r"); !errors.Is(err, ErrInvalid) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
}

func TestLoadReadsTheRootOfAFileSystem(t *testing.T) {
	r, err := Load(fstest.MapFS{"roll.yaml": {Data: []byte(minimal)}, "sub/f": {Data: []byte("x")}}, ".")
	if err != nil || string(r.Files["sub/f"]) != "x" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// FuzzLoad: whatever is in roll.yaml and a template, Load answers, and what it
// accepts can be digested, listed, and does not write outside of the tree.
func FuzzLoad(f *testing.F) {
	for _, y := range []string{minimal, baseYAML, usersYAML, slurmYAML, "a: &a [*a]", "apply: {\"*\": {seed: [{path: /x, source: f, mode: '9'}]}}"} {
		f.Add(y, "{{.Node.Name}}")
	}
	f.Fuzz(func(t *testing.T, yaml, text string) {
		r, err := Load(dir(yaml, map[string]string{"f": text, "motd": text, "hosts.tmpl": text}), "r")
		if err != nil {
			return
		}
		if len(r.Digest()) != 64 {
			t.Error("no digest")
		}
		for _, a := range append(r.Appliances(), ApplianceFrontend) {
			rec := Recipe{Appliance: a, Rolls: []*Roll{r}}
			for _, file := range append(rec.Files(), rec.Seed()...) {
				if !strings.HasPrefix(file.Path, "/") || strings.Contains(file.Path, "/../") || file.Perm() > 0o1777 {
					t.Errorf("accepted %+v", file.FileSpec)
				}
				file.UserGroup()
			}
			for _, s := range rec.Scripts() {
				if s.Content == nil {
					t.Errorf("script %s has no content", s.Name)
				}
			}
		}
	})
}
