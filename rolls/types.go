package rolls

// Roll is a versioned bundle of software and configuration. It is a directory
// with a roll.yaml, which reads into this, and the files it names.
type Roll struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Description string   `json:"description"`
	Requires    []string `json:"requires,omitempty"`  // rolls, name or name@version
	Conflicts   []string `json:"conflicts,omitempty"` // rolls, name
	// Apply says what it does to each appliance it applies to: "frontend",
	// "worker", or "*" for all.
	Apply   map[string]Apply `json:"apply"`
	Secrets []SecretSpec     `json:"secrets,omitempty"`
	// Files holds the roll's own files by path relative to its directory.
	Files map[string][]byte `json:"-"`
}

// Apply is what a roll does to one appliance.
type Apply struct {
	Packages []string   `json:"packages,omitempty"`
	Files    []FileSpec `json:"files,omitempty"` // copied at image time
	// Seed files are rendered for each node, as text/template, into its seed.
	Seed     []FileSpec `json:"seed,omitempty"`
	Enable   []string   `json:"enable,omitempty"`   // systemd units
	Disable  []string   `json:"disable,omitempty"`  // systemd units, masked
	Scripts  []string   `json:"scripts,omitempty"`  // sources, run in the image's chroot, in order
	FirstRun []string   `json:"firstRun,omitempty"` // sources, run once in the guest, at its first boot
	// Ready commands (templates, run by sh) must all succeed in the guest, tried
	// again and again, before the node may call itself ready.
	Ready []string `json:"ready,omitempty"`
	// Reload commands (templates, run by sh) run in the guest, in order, after one
	// or more of its live files have changed. Running twice must not harm.
	Reload []string `json:"reload,omitempty"`
}

// FileSpec is one file in an image or a seed. Exactly one of Source, Secret and
// Dir says what it is.
type FileSpec struct {
	Path   string `json:"path"`             // absolute, in the guest
	Source string `json:"source,omitempty"` // in the roll's directory
	Dir    bool   `json:"dir,omitempty"`    // a directory
	Mode   string `json:"mode,omitempty"`   // octal, at most 1777; default 0644, directories 0755
	Owner  string `json:"owner,omitempty"`  // user:group by name; default root:root
	// Secret, in seeds only: the content of a secret, by its name, or roll/name
	// if it is of a required roll; ssh-ed25519 also has name.pub. Per node it is
	// this node's, per user (with forEach: user) that user's.
	Secret string `json:"secret,omitempty"`
	// ForEach, in seeds only: "user" makes one such file for each user of the
	// cluster. Path and Owner may then hold {{.User.Name}}, and templates see .User.
	ForEach string `json:"forEach,omitempty"`
	When    string `json:"when,omitempty"` // "", "always" (each boot the seed is new); reserved
	// Live, in seeds only and not for directories: it is rewritten in running
	// nodes when the cluster changes.
	Live bool `json:"live,omitempty"`
}

// SecretSpec is something random that the leader makes once per cluster, and
// that images never hold.
type SecretSpec struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`            // random, ssh-ed25519
	Bytes int    `json:"bytes,omitempty"` // with random: 1-4096, default 32
	Per   string `json:"per,omitempty"`   // cluster (default), node, user
}

// Recipe is what an image is made of: an appliance and its resolved rolls, in
// order.
type Recipe struct {
	Appliance string
	Rolls     []*Roll
}

// Manifest describes a built image. It is written beside it.
type Manifest struct {
	Recipe    string            `json:"recipe"`
	Digest    string            `json:"digest"`
	Appliance string            `json:"appliance"`
	Rolls     []string          `json:"rolls"`    // name@version
	Packages  map[string]string `json:"packages"` // name to version
	Users     map[string]ID     `json:"users"`    // the image's /etc/passwd, by name
	Groups    map[string]int    `json:"groups"`
	Kernel    string            `json:"kernel"`  // release
	Cmdline   string            `json:"cmdline"` // what the image wants; the host adds its own
}

// ID is a user's numbers.
type ID struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// Cluster is everything a seed is rendered from.
type Cluster struct {
	ID      string
	Name    string
	Project string
	Subnet  string // CIDR
	Nodes   []Node
	Users   []User
	Secrets Secrets
}

// Node is one node of it. The frontend is first.
type Node struct {
	Name      string
	Role      string // frontend, worker
	Group     string
	CPUs      int
	MemoryMiB int
	Private   NIC
	Public    *NIC // frontend only
}

// NIC is one network card with its address.
type NIC struct {
	MAC     string
	Address string // CIDR
	Gateway string // empty for none
	DNS     []string
}

// User is an account.
type User struct {
	Name  string
	UID   int
	Keys  []string
	Admin bool
}

// Secrets maps roll/name, roll/name/NODE or roll/name/USER to content. For
// ssh-ed25519 there are two entries: KEY (OpenSSH private key) and KEY.pub.
type Secrets map[string][]byte
