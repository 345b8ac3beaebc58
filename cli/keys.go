package cli

import (
	"io"
	"os"
	"path/filepath"
	"strings"

	"vcn/api"
)

// defaultKeys are looked for in ~/.ssh when no key is given.
var defaultKeys = []string{"id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"}

// readKeys reads public key files; a value that is a key itself is taken.
func (a *app) readKeys(paths []string) ([]string, error) {
	home := a.getenv("HOME")
	if len(paths) == 0 {
		for _, n := range defaultKeys {
			p := filepath.Join(home, ".ssh", n)
			if _, err := os.Stat(p); err == nil && home != "" {
				paths = []string{p}
				break
			}
		}
	}
	if len(paths) == 0 {
		return nil, usage("no ssh public key was found in ~/.ssh", "Make one with ssh-keygen, or give one with --key FILE")
	}
	var keys []string
	for _, p := range paths {
		if strings.HasPrefix(p, "ssh-") || strings.HasPrefix(p, "ecdsa-") || strings.HasPrefix(p, "sk-") {
			keys = append(keys, p)
			continue
		}
		if rest, ok := strings.CutPrefix(p, "~/"); ok && home != "" {
			p = filepath.Join(home, rest)
		}
		found, err := keysOfFile(p)
		if err != nil {
			return nil, err
		}
		keys = append(keys, found...)
	}
	return keys, nil
}

func keysOfFile(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, usage("cannot read the ssh public key: "+err.Error(), "Check the path after --key")
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, api.SpecSizeMax))
	if err != nil {
		return nil, usage("cannot read the ssh public key: "+err.Error(), "Check the path after --key")
	}
	if strings.Contains(string(b), "PRIVATE KEY") {
		return nil, usage("a private key was given", "", api.FieldError{Field: "--key", Value: path, Want: "the public key: " + path + ".pub"})
	}
	var keys []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			keys = append(keys, line)
		}
	}
	if len(keys) == 0 {
		return nil, usage("there is no key in the file", "", api.FieldError{Field: "--key", Value: path, Want: "a file with an ssh public key"})
	}
	return keys, nil
}
