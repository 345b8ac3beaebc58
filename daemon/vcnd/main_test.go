package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// vcnd runs one command line against a configuration of its own directory.
func vcnd(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	conf := filepath.Join(dir, "vcnd.yaml")
	text := "name: h1\naddress: 198.51.100.7\napi: {listen: \"0.0.0.0:7443\"}\ndataDir: " + filepath.Join(dir, "data") + "\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cmd := root()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(append([]string{"--config", conf}, args...))
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func initArgs(more ...string) []string {
	return append([]string{"init", "--name", "lab", "--public-pool", "192.0.2.10-192.0.2.99/24"}, more...)
}

func TestAWrongCommandLineNamesTheFlagAndWritesNothing(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		args []string
		want string
	}{
		{initArgs("--expect", "x"), `--expect: "x": want a whole number`},
		{initArgs("--subnet-bits", "20.5"), `--subnet-bits: "20.5": want a whole number`},
		{initArgs("--expect", "5"), `--expect: "5": want at most 3, which is raft.voters`},
		{initArgs("--vlans", "100-200x"), `--vlans: "100-200x": want FIRST-LAST`},
		{initArgs("--public-gateway", "192.0.2.50"), `--public-gateway: "192.0.2.50": want an address`},
		{initArgs("--token-file", filepath.Join(dir, "none", "token")), "--token-file: "},
		{[]string{"join", "--host", `"x`}, `invalid argument "\"x" for "--host" flag`},
		{initArgs("--nope"), "unknown flag: --nope"},
		{initArgs("lab"), `unknown command "lab"`},
		{[]string{"init"}, `required flag(s) "name", "public-pool" not set`},
		{[]string{"join", "--host", "https://10.0.0.1:7443"}, "--token or --token-file: want a join token"},
	} {
		if out, err := vcnd(t, dir, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) || out != "" {
			t.Errorf("vcnd %v: %q, %v; want %s", tc.args, out, err, tc.want)
		}
		if _, err := os.Stat(filepath.Join(dir, "data")); !os.IsNotExist(err) {
			t.Fatalf("vcnd %v wrote into the data directory: %v", tc.args, err)
		}
	}
}

func TestInitTellsHowToGoOn(t *testing.T) {
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	out, err := vcnd(t, dir, initArgs("--token-file", tokenFile)...)
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"vcnctl context add NAME --host https://198.51.100.7:7443 --token \"$(cat " + tokenFile + ")\"\n",
		"vcnd join --host https://198.51.100.7:7443 --token-file FILE\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("init says %s\nwant %s", out, want)
		}
	}
	if secret := strings.TrimSpace(string(token)); secret == "" || strings.Contains(out, secret) {
		t.Errorf("init shows the token that it was to put into a file: %s", out)
	}
	if _, err := vcnd(t, dir, initArgs("--token-file", tokenFile+"2")...); err == nil || !strings.Contains(err.Error(), "already belongs to a cluster") {
		t.Errorf("a second init: %v", err)
	}
	if _, err := os.Stat(tokenFile + "2"); !os.IsNotExist(err) {
		t.Errorf("a refused init made a token file: %v", err)
	}
}

func TestInitShowsTheTokenWithoutAFile(t *testing.T) {
	out, err := vcnd(t, t.TempDir(), initArgs()...)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(out, "--token ")
	if token, _, _ := strings.Cut(after, "\n"); len(token) < 40 || strings.ContainsAny(token, " \"$") {
		t.Errorf("init says %s", out)
	}
}
