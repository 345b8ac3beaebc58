package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vcn/rolls"
)

// always is what every tree has beside what rolls name.
var always = []string{"?essential", "?priority(required)", "apt"}

// pool is a private apt: the host's sources and keys, but its own lists, its
// own archives, and an empty system as the starting point.
type pool struct {
	dir   string // CacheDir/apt
	conf  string
	netns string // Config.FetchNetns
}

func (p *pool) archives() string { return filepath.Join(p.dir, "archives") }

// newPool writes the private configuration. Of the host's, only the sources,
// keys, pins and the ways of fetching hold; its hooks would run on the host.
func newPool(ctx context.Context, dir, netns string) (*pool, error) {
	p := &pool{dir: dir, conf: filepath.Join(dir, "apt.conf"), netns: netns}
	for _, d := range []string{"archives/partial", "lists/partial", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	dump, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil, fmt.Errorf("read the host's apt configuration: %w", err)
	}
	conf := fetchOptions(string(dump)) + fmt.Sprintf(`
Dir::Etc::parts "%[1]s/empty"; Dir::Etc::main "/dev/null";
Dir::State "%[1]s"; Dir::State::lists "%[1]s/lists"; Dir::State::status "/dev/null";
Dir::Cache "%[1]s"; Dir::Cache::archives "%[1]s/archives";
Acquire::Languages "none"; Acquire::Retries "3";
APT::Update::Error-Mode "any";
APT::Install-Recommends "false"; APT::Sandbox::User "root"; APT::Get::Assume-Yes "true";
`, dir)
	return p, os.WriteFile(p.conf, []byte(conf), 0o644)
}

var fetchOption = regexp.MustCompile(`^Acquire::(http|https|Check-|ForceIPv|Max-)[^ ]* ".+";$`)

// fetchOptions picks from apt-config's dump how to fetch: proxies, certificates,
// time checks.
func fetchOptions(dump string) string {
	var b strings.Builder
	for _, line := range strings.Split(dump, "\n") {
		if fetchOption.MatchString(line) {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

func (p *pool) apt(ctx context.Context, tool string, args ...string) (string, error) {
	argv := append([]string{tool}, args...)
	if p.netns != "" {
		argv = append([]string{"nsenter", "--net=" + p.netns}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "APT_CONFIG="+p.conf, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = killWait
	var out limitedBuffer
	var tail tailBuffer
	cmd.Stdout, cmd.Stderr = &out, &tail
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("%w: %s %s: %v\n%s", ErrBuild, tool, args[0], err, tail.String())
	}
	return out.String(), nil
}

// update reads the sources' indexes. Without a network, those of last time do.
func (p *pool) update(ctx context.Context, progress func(string)) error {
	_, err := p.apt(ctx, "apt-get", "-q", "update")
	if err == nil || ctx.Err() != nil {
		return err
	}
	if lists, _ := filepath.Glob(filepath.Join(p.dir, "lists", "*_Packages*")); len(lists) > 0 {
		progress("package sources cannot be read; going on with what is known of them")
		return nil
	}
	return fmt.Errorf("read package sources: %w", err)
}

var instLine = regexp.MustCompile(`(?m)^Inst ([^ ]+) (?:\[[^\]]*\] )?\(([^ ]+) .*\[([a-z0-9]+)\]\)`)

// resolve says what an empty system would install to have these packages.
func (p *pool) resolve(ctx context.Context, names []string) ([]Package, error) {
	out, err := p.apt(ctx, "apt-get", append([]string{"install", "-s"}, append(slices.Clone(always), names...)...)...)
	if err != nil {
		return nil, err
	}
	ps := parseInst(out)
	if len(ps) == 0 {
		return nil, fmt.Errorf("%w: apt-get would install nothing", ErrBuild)
	}
	return ps, nil
}

// parseInst reads the lines of a simulated install, in the order of installing.
func parseInst(out string) []Package {
	var ps []Package
	for _, m := range instLine.FindAllStringSubmatch(out, -1) {
		name, _, _ := strings.Cut(m[1], ":")
		ps = append(ps, Package{Name: name, Version: m[2], Arch: m[3]})
	}
	return ps
}

// describe adds digests and sizes from the signed indexes, and returns the index entries
// for a flat repository of exactly these packages.
func (p *pool) describe(ctx context.Context, ps []Package) (string, error) {
	args := []string{"show"}
	for _, q := range ps {
		args = append(args, q.Name+"="+q.Version)
	}
	out, err := p.apt(ctx, "apt-cache", args...)
	if err != nil {
		return "", err
	}
	return flatIndex(out, ps)
}

// flatIndex turns apt-cache's records into a Packages file whose files lie beside
// it, and fills in digest and size.
func flatIndex(records string, ps []Package) (string, error) {
	want := map[string]*Package{}
	for i := range ps {
		want[ps[i].Name+" "+ps[i].Version] = &ps[i]
	}
	var b strings.Builder
	for _, rec := range strings.Split(records, "\n\n") {
		f := recordFields(rec)
		q := want[f["Package"]+" "+f["Version"]]
		if q == nil || q.SHA256 != "" || f["SHA256"] == "" || f["Architecture"] != q.Arch {
			continue
		}
		q.SHA256 = f["SHA256"]
		if _, err := fmt.Sscan(f["Size"], &q.Size); err != nil {
			return "", fmt.Errorf("package %s: size %q: %w", q.Name, f["Size"], err)
		}
		for _, line := range strings.Split(strings.TrimSpace(rec), "\n") {
			if strings.HasPrefix(line, "Filename:") {
				line = "Filename: ./" + q.file()
			}
			b.WriteString(line + "\n")
		}
		b.WriteString("\n")
	}
	for _, q := range ps {
		if q.SHA256 == "" {
			return "", fmt.Errorf("%w: package %s %s: no record with a digest", ErrBuild, q.Name, q.Version)
		}
	}
	return b.String(), nil
}

// recordFields reads the one-line fields of a control record.
func recordFields(rec string) map[string]string {
	f := map[string]string{}
	for _, line := range strings.Split(rec, "\n") {
		if k, v, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(k, " ") {
			f[k] = strings.TrimSpace(v)
		}
	}
	return f
}

// fetch downloads what is missing and checks the digest of every file.
func (p *pool) fetch(ctx context.Context, names []string, ps []Package, progress func(string)) error {
	var missing int
	var bytes int64
	for _, q := range ps {
		if fi, err := os.Stat(filepath.Join(p.archives(), q.file())); err != nil || fi.Size() != q.Size {
			missing++
			bytes += q.Size
		}
	}
	if missing > 0 {
		progress(fmt.Sprintf("downloading %d packages, %d MB", missing, bytes/1e6))
		args := append([]string{"install", "-q", "--download-only"}, append(slices.Clone(always), names...)...)
		if _, err := p.apt(ctx, "apt-get", args...); err != nil {
			return fmt.Errorf("download packages: %w", err)
		}
	}
	for _, q := range ps {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := filepath.Join(p.archives(), q.file())
		got, err := fileDigest(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: package %s %s was not downloaded", ErrBuild, q.Name, q.Version)
		}
		if err != nil {
			return err
		}
		if got != q.SHA256 {
			_ = os.Remove(name) // so that the next build fetches it again
			return fmt.Errorf("package %s %s: %w", q.Name, q.Version, ErrCorrupt)
		}
	}
	return nil
}

var (
	noPackage = regexp.MustCompile(`(?:Unable to locate package|Package '?)\s*([a-z0-9][a-z0-9+.-]+)'?`)
	badScript = regexp.MustCompile(`error processing (?:package|archive) ([a-z0-9][a-z0-9+.-]+)`)
)

// blame adds to an error of apt or dpkg which roll asked for the package.
func blame(err error, r rolls.Recipe) error {
	if err == nil || !errors.Is(err, ErrBuild) {
		return err
	}
	for _, re := range []*regexp.Regexp{badScript, noPackage} {
		m := re.FindStringSubmatch(err.Error())
		if m == nil {
			continue
		}
		for _, e := range r.Packages() {
			if e.Name == m[1] {
				return fmt.Errorf("roll %s: package %s: %w", e.Roll.ID(), m[1], err)
			}
		}
		return fmt.Errorf("package %s, which the rolls' packages need: %w", m[1], err)
	}
	return err
}
