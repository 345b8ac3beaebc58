package cli

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/yaml"

	"vcn/api"
	"vcn/api/client"
)

const configSizeMax = 4 << 20 // bytes

// config is the file of contexts.
type config struct {
	Current  string         `json:"current,omitempty"`
	Contexts []savedContext `json:"contexts"`
}

// savedContext is one cluster of hosts and a token for it.
type savedContext struct {
	Name  string   `json:"name"`
	Hosts []string `json:"hosts"`
	CA    string   `json:"ca"`
	Token string   `json:"token"`
}

func (c *config) find(name string) *savedContext {
	for i := range c.Contexts {
		if c.Contexts[i].Name == name {
			return &c.Contexts[i]
		}
	}
	return nil
}

func (c *config) names() string {
	if len(c.Contexts) == 0 {
		return "a context; there is none yet: vcnctl context add"
	}
	var names []string
	for _, x := range c.Contexts {
		names = append(names, x.Name)
	}
	return "one of " + strings.Join(names, ", ")
}

// configPath is where the contexts are.
func (a *app) configPath() (string, error) {
	if path, _ := a.namedConfig(); path != "" {
		return path, nil
	}
	if d := a.getenv("XDG_CONFIG_HOME"); d != "" {
		return filepath.Join(d, "vcn", "config.yaml"), nil
	}
	if d := a.getenv("HOME"); d != "" {
		return filepath.Join(d, ".config", "vcn", "config.yaml"), nil
	}
	return "", usage("nowhere to keep contexts: neither HOME nor XDG_CONFIG_HOME is set", "Give a file with --config or VCN_CONFIG")
}

// namedConfig is the file of contexts that somebody named, if so, and where.
func (a *app) namedConfig() (path, by string) {
	if a.flags.config != "" {
		return a.flags.config, "--config"
	}
	return a.getenv("VCN_CONFIG"), "VCN_CONFIG"
}

// knownContexts is loadConfig for whoever does not add a context: a file that
// somebody named must be there.
func (a *app) knownContexts() (config, error) {
	if path, by := a.namedConfig(); path != "" {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return config{}, usage(fmt.Sprintf("there is no file of contexts %s, which %s names", path, by),
				"Name another, or none; or add a context to it: vcnctl context add")
		}
	}
	return a.loadConfig()
}

// loadConfig reads the contexts; a missing file is an empty one.
func (a *app) loadConfig() (config, error) {
	var c config
	path, err := a.configPath()
	if err != nil {
		return c, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read contexts: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		return c, usage("cannot read contexts: "+path+" is a directory", "Name a file with --config or VCN_CONFIG")
	}
	if err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		a.note("%s holds tokens and others may read it; run: chmod 600 %s", path, path)
	}
	if err := api.ReadStrict(f, configSizeMax, &c); err != nil {
		var p *api.Problem
		if errors.As(err, &p) {
			p.Detail = path + ": " + p.Detail
		}
		return c, err
	}
	return c, nil
}

// saveConfig replaces the file in one step, readable by its owner only.
func (a *app) saveConfig(c config) error {
	path, err := a.configPath()
	if err != nil {
		return err
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode contexts: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	f, err := os.CreateTemp(dir, ".config-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

// connect makes the client that flags, environment and context ask for.
func (a *app) connect(ctx context.Context) (*client.Client, error) {
	hosts, tokenText := a.flags.hosts, a.flags.token
	if len(hosts) == 0 {
		hosts = splitList(a.getenv("VCN_HOST"))
	}
	if tokenText == "" {
		tokenText = a.getenv("VCN_TOKEN")
	}
	saved, err := a.contextInUse(len(hosts) > 0 && tokenText != "")
	if err != nil {
		return nil, err
	}
	givenHosts := len(hosts) > 0
	if !givenHosts {
		hosts = saved.Hosts
	}
	if tokenText == "" {
		tokenText = saved.Token
	}
	token, err := api.ParseToken(tokenText)
	if err != nil {
		return nil, usage("the token is not one of vcn: it reads vcn.KIND.….…", "Ask the operator for one, and copy the whole line")
	}
	a.operator = token.Kind == api.TokenOperator
	ca := []byte(saved.CA)
	if pemFingerprint(ca) != token.CAFingerprint {
		// The saved CA, if any, is not this token's.
		if !givenHosts {
			return nil, &api.Problem{Status: 421, Code: api.CodeWrongCluster,
				Detail: fmt.Sprintf("the token is of another cluster of hosts than the context %q", saved.Name)}
		}
		if ca, err = fetchAnyCA(ctx, hosts, token.CAFingerprint); err != nil {
			return nil, err
		}
	}
	return a.newClient(hosts, ca, tokenText)
}

func (a *app) newClient(hosts []string, ca []byte, token string) (*client.Client, error) {
	var mu sync.Mutex
	told := map[string]bool{}
	return client.New(client.Config{Hosts: hosts, CA: ca, Token: token, OnRetry: func(host string, err error) {
		mu.Lock()
		defer mu.Unlock()
		if !told[host] && !(len(hosts) == 1 && errors.Is(err, client.ErrWrongCluster)) {
			told[host] = true
			first, _, _ := strings.Cut(strings.TrimPrefix(err.Error(), host+": "), "\n")
			a.note("%s cannot serve now (%s); trying on", host, printable(first))
		}
	}})
}

// contextInUse is the context named by --context or the current one. Without
// one it is an error, unless nothing is needed from it.
func (a *app) contextInUse(optional bool) (savedContext, error) {
	if optional && a.flags.context == "" {
		return savedContext{}, nil
	}
	c, err := a.knownContexts()
	if err != nil {
		return savedContext{}, err
	}
	name := a.flags.context
	if name == "" {
		name = c.Current
	}
	if name == "" && len(c.Contexts) > 0 {
		return savedContext{}, usage("no context is in use", "Use one: vcnctl context use NAME", api.FieldError{Field: "--context", Want: c.names()})
	}
	if name == "" {
		return savedContext{}, usage("no cluster of hosts is known yet",
			"Add one: vcnctl context add NAME --host https://ADDRESS:PORT --token TOKEN")
	}
	saved := c.find(name)
	if saved == nil {
		return savedContext{}, usage("there is no such context", "", api.FieldError{Field: "--context", Value: name, Want: c.names()})
	}
	return *saved, nil
}

// fetchAnyCA gets the CA from the first host that can be reached.
func fetchAnyCA(ctx context.Context, hosts []string, fingerprint string) (ca []byte, err error) {
	for _, h := range hosts {
		ca, err = client.FetchCA(ctx, h, fingerprint)
		if err == nil || ctx.Err() != nil || !errors.Is(err, client.ErrUnavailable) {
			return ca, err
		}
	}
	return nil, err
}

func pemFingerprint(b []byte) string {
	block, _ := pem.Decode(b)
	if block == nil {
		return ""
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	return client.Fingerprint(cert)
}

func splitList(s string) []string {
	return slices.DeleteFunc(strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }), func(x string) bool { return x == "" })
}
