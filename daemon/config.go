package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
	"vcn/hostops"
	"vcn/hostops/iscsi/targetd"
)

// Ports used where an address in the configuration has none.
const (
	PortAPI      = 7443
	PortInternal = 7444
	PortGossip   = 7445
	PortISCSI    = 3260
)

const configBytesMax = 64 << 10

// Config is vcnd's configuration file. Only address is needed; everything else
// has a default.
type Config struct {
	// Name is the host's name for people, unique among hosts; default: the
	// machine's host name.
	Name string `json:"name,omitempty"`
	// DataDir holds identity, Raft data, nodes' files; default /var/lib/vcn.
	// This and every other path is absolute.
	DataDir string `json:"dataDir,omitempty"`
	// Address is this host's address on the network between hosts.
	Address string `json:"address"`
	// Classes: gateway, compute, storage; default compute.
	Classes       []api.Class `json:"classes,omitempty"`
	FailureDomain string      `json:"failureDomain,omitempty"`

	API      ListenConfig  `json:"api,omitempty"`
	Internal ListenConfig  `json:"internal,omitempty"`
	Gossip   ListenConfig  `json:"gossip,omitempty"`
	Storage  StorageConfig `json:"storage,omitempty"`
	Network  NetworkConfig `json:"network,omitempty"`
	Images   ImagesConfig  `json:"images,omitempty"`
	Libvirt  LibvirtConfig `json:"libvirt,omitempty"`
	// Initiator is what reaches the volumes of other hosts: qemu (default), each
	// node's own, or kernel, this host's, by open-iscsi.
	Initiator string         `json:"initiator,omitempty"`
	Capacity  CapacityConfig `json:"capacity,omitempty"`
	Raft      RaftConfig     `json:"raft,omitempty"`
	Notify    NotifyConfig   `json:"notify,omitempty"`
	// WorkerDelay is how long a worker's first start waits for its frontend:
	// a duration, default 4s where guests are emulated, 0s with KVM.
	WorkerDelay string `json:"workerDelay,omitempty"`
	LogLevel    string `json:"logLevel,omitempty"` // debug, info (default), warn, error
}

// ListenConfig is where something listens; the default is Address and the
// service's own port.
type ListenConfig struct {
	// Listen is address:port. The API's may be 0.0.0.0 or [::] and a port: then
	// others are told Address and that port.
	Listen string `json:"listen,omitempty"`
	// Names are more names or addresses that clients may use, put into the
	// host's certificate (API only).
	Names []string `json:"names,omitempty"`
}

// StorageConfig is for hosts of class storage.
type StorageConfig struct {
	// Driver is auto (default), file or lvm. Auto is lvm where a volume group is
	// given, else file.
	Driver      string `json:"driver,omitempty"`
	Dir         string `json:"dir,omitempty"`         // of files; default DataDir/volumes
	VolumeGroup string `json:"volumeGroup,omitempty"` // of lvm; made by the operator
	ThinPool    string `json:"thinPool,omitempty"`    // in it; default vcn, made if it is absent
	// Engine is auto (default), embedded or lio. Auto is lio where the kernel has it
	// and initiator is kernel, else embedded.
	Engine string `json:"engine,omitempty"`
	// WriteThrough makes every write durable before it is acknowledged (embedded
	// engine only). Without it a host that loses power loses what nodes wrote and
	// did not flush, as a disk with a write cache does.
	WriteThrough bool         `json:"writeThrough,omitempty"`
	Portal       string       `json:"portal,omitempty"`  // address:port; default Address:3260
	Reserve      api.Quantity `json:"reserve,omitempty"` // never given to volumes; default 1GiB
}

// NetworkConfig is how cluster networks travel and where the public one is.
type NetworkConfig struct {
	Driver       string `json:"driver,omitempty"`       // auto (default), vlan, vxlan
	Underlay     string `json:"underlay,omitempty"`     // link; default: the one that has Address
	PublicBridge string `json:"publicBridge,omitempty"` // needed with class gateway
	MTU          int    `json:"mtu,omitempty"`          // what guests see, 1280-9216 bytes; default 1500
}

// ImagesConfig is where images are kept and built.
type ImagesConfig struct {
	Dir   string `json:"dir,omitempty"`   // default DataDir/images
	Cache string `json:"cache,omitempty"` // packages and base trees; default DataDir/cache
	Init  string `json:"init,omitempty"`  // the guests' init; default vcn-init beside vcnd
	// FetchNetns is the path of the network namespace from which the package
	// sources are reached, where it is not vcnd's own.
	FetchNetns string `json:"fetchNetns,omitempty"`
}

// LibvirtConfig is how to reach the hypervisor.
type LibvirtConfig struct {
	Socket string `json:"socket,omitempty"` // default /run/libvirt/libvirt-sock
	Accel  string `json:"accel,omitempty"`  // auto (default), kvm, tcg
}

// CapacityConfig overrides what the machine says it has; 0 does not.
type CapacityConfig struct {
	CPUs    int          `json:"cpus,omitempty"`
	Memory  api.Quantity `json:"memory,omitempty"`
	Storage api.Quantity `json:"storage,omitempty"`
}

// RaftConfig is the same on every host.
type RaftConfig struct {
	Voters    int    `json:"voters,omitempty"`    // 3 (default) or 5
	NeverPeer bool   `json:"neverPeer,omitempty"` // this host stays outside the Raft group
	DeadAfter string `json:"deadAfter,omitempty"` // a peer dead so long is replaced; default 30s
}

// lvmNamePattern is what lvm(8) takes as a name, shorter.
var lvmNamePattern = regexp.MustCompile(`^[a-zA-Z0-9_+.][a-zA-Z0-9_+.-]{0,63}$`)

var hostNamePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,39}$`)

// LoadConfig reads and checks a configuration file, of at most 64 KiB. An
// unknown field, a value of the wrong kind or out of range is an error that
// names the field, its value and what would be right.
func LoadConfig(path string) (Config, error) {
	var c Config
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := api.ReadStrict(bytes.NewReader(b), configBytesMax, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if err := c.complete(); err != nil {
		return c, fmt.Errorf("check configuration %s: %w", path, err)
	}
	return c, nil
}

// complete fills defaults, then checks every field.
func (c *Config) complete() error {
	if c.Name == "" {
		h, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name: not given, and the machine's cannot be read: %w", err)
		}
		c.Name = strings.ToLower(strings.SplitN(h, ".", 2)[0])
	}
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.DataDir, "/var/lib/vcn")
	if len(c.Classes) == 0 {
		c.Classes = []api.Class{api.ClassCompute}
	}
	addr, err := netip.ParseAddr(c.Address)
	if err != nil || addr.IsUnspecified() {
		return fmt.Errorf("address: %q: want this host's address on the network between hosts, such as 10.0.0.1", c.Address)
	}
	at := func(port int) string { return netip.AddrPortFrom(addr, uint16(port)).String() }
	def(&c.API.Listen, at(PortAPI))
	def(&c.Internal.Listen, at(PortInternal))
	def(&c.Gossip.Listen, at(PortGossip))
	def(&c.Storage.Portal, at(PortISCSI))
	def(&c.Storage.Dir, filepath.Join(c.DataDir, "volumes"))
	if c.Storage.Reserve == 0 {
		c.Storage.Reserve = 1 << 30
	}
	def(&c.Storage.Driver, "auto")
	def(&c.Storage.Engine, "auto")
	if c.Storage.VolumeGroup != "" {
		def(&c.Storage.ThinPool, "vcn")
	}
	def(&c.Initiator, "qemu")
	def(&c.Network.Driver, "auto")
	def(&c.Images.Dir, filepath.Join(c.DataDir, "images"))
	def(&c.Images.Cache, filepath.Join(c.DataDir, "cache"))
	def(&c.Libvirt.Socket, "/run/libvirt/libvirt-sock")
	def(&c.Libvirt.Accel, "auto")
	def(&c.Raft.DeadAfter, "30s")
	def(&c.LogLevel, "info")
	if c.Raft.Voters == 0 {
		c.Raft.Voters = 3
	}
	if c.Images.Init == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("images.init: not given, and the program's own place is unknown: %w", err)
		}
		c.Images.Init = filepath.Join(filepath.Dir(exe), "vcn-init")
	}
	return c.check()
}

func (c *Config) check() error {
	var errs []error
	bad := func(field string, value any, want string) {
		errs = append(errs, fmt.Errorf("%s: %q: want %s", field, fmt.Sprint(value), want))
	}
	if !hostNamePattern.MatchString(c.Name) {
		bad("name", c.Name, "1-40 of a-z, 0-9 and '-', starting with a letter")
	}
	for i, cl := range c.Classes {
		if cl != api.ClassGateway && cl != api.ClassCompute && cl != api.ClassStorage {
			bad(fmt.Sprintf("classes[%d]", i), cl, "gateway, compute or storage")
		}
	}
	for _, f := range []struct{ name, value string }{
		{"api.listen", c.API.Listen}, {"internal.listen", c.Internal.Listen}, {"gossip.listen", c.Gossip.Listen}, {"storage.portal", c.Storage.Portal},
	} {
		if ap, err := netip.ParseAddrPort(f.value); err != nil || ap.Port() == 0 {
			bad(f.name, f.value, "address:port, such as 10.0.0.1:7443")
		}
	}
	for _, f := range []struct{ name, value string }{{"internal.listen", c.Internal.Listen}, {"gossip.listen", c.Gossip.Listen}, {"storage.portal", c.Storage.Portal}} {
		if ap, err := netip.ParseAddrPort(f.value); err == nil && ap.Addr().IsUnspecified() {
			bad(f.name, f.value, "one address that other hosts can reach")
		}
	}
	if c.Has(api.ClassGateway) && c.Network.PublicBridge == "" {
		bad("network.publicBridge", "", "the bridge of the public network, because the host has class gateway")
	}
	c.checkStorage(bad)
	c.checkNotify(bad)
	if !slices.Contains([]string{"qemu", "kernel"}, c.Initiator) {
		bad("initiator", c.Initiator, "qemu or kernel")
	}
	if !slices.Contains([]string{"auto", "vlan", "vxlan"}, c.Network.Driver) {
		bad("network.driver", c.Network.Driver, "auto, vlan or vxlan")
	}
	if !slices.Contains([]string{"auto", "kvm", "tcg"}, c.Libvirt.Accel) {
		bad("libvirt.accel", c.Libvirt.Accel, "auto, kvm or tcg")
	}
	if c.Raft.Voters != 3 && c.Raft.Voters != 5 {
		bad("raft.voters", c.Raft.Voters, "3 or 5")
	}
	for _, f := range []struct{ name, value string }{{"raft.deadAfter", c.Raft.DeadAfter}, {"workerDelay", c.WorkerDelay}} {
		if d, err := time.ParseDuration(f.value); f.value != "" && (err != nil || d < 0) {
			bad(f.name, f.value, "a duration, such as 30s")
		}
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		bad("logLevel", c.LogLevel, "debug, info, warn or error")
	}
	c.checkSizes(bad)
	c.checkPaths(bad)
	return errors.Join(errs...)
}

func (c *Config) checkStorage(bad func(field string, value any, want string)) {
	s := c.Storage
	if !slices.Contains([]string{"auto", "file", "lvm"}, s.Driver) {
		bad("storage.driver", s.Driver, "auto, file or lvm")
	}
	if !slices.Contains([]string{"auto", "embedded", "lio"}, s.Engine) {
		bad("storage.engine", s.Engine, "auto, embedded or lio")
	}
	if s.Driver == "lvm" && s.VolumeGroup == "" {
		bad("storage.volumeGroup", "", "the LVM volume group that volumes are carved from, because storage.driver is lvm")
	}
	if s.Driver == "file" && s.VolumeGroup != "" {
		bad("storage.volumeGroup", s.VolumeGroup, "nothing, because storage.driver is file")
	}
	for _, f := range []struct{ name, value string }{{"storage.volumeGroup", s.VolumeGroup}, {"storage.thinPool", s.ThinPool}} {
		if f.value != "" && !lvmNamePattern.MatchString(f.value) {
			bad(f.name, f.value, "the name alone, of letters, digits, '_', '+', '.' and '-'")
		}
	}
	if s.ThinPool != "" && s.VolumeGroup == "" {
		bad("storage.thinPool", s.ThinPool, "storage.volumeGroup beside it")
	}
	if s.WriteThrough && s.Engine == "lio" {
		bad("storage.writeThrough", s.WriteThrough, "storage.engine embedded beside it")
	}
}

// VolumeDriver is lvm or file: what storage.driver says, or auto means.
func (c *Config) VolumeDriver() string {
	if c.Storage.Driver == "lvm" || c.Storage.Driver == "auto" && c.Storage.VolumeGroup != "" {
		return "lvm"
	}
	return "file"
}

// targetEngine is what the target process is asked for. LIO cannot write through.
// And QEMU's initiator reconnects as another port: the embedded engine ends and
// drains its old session first, LIO lets both write for a moment. So auto means LIO
// only where hosts, which are configured alike, use the kernel's initiator.
func (c *Config) targetEngine() string {
	if c.Storage.WriteThrough || c.Storage.Engine == targetd.EngineAuto && c.Initiator != "kernel" {
		return targetd.EngineEmbedded
	}
	return c.Storage.Engine
}

func (c *Config) checkSizes(bad func(field string, value any, want string)) {
	if m := c.Network.MTU; m != 0 && (m < hostops.MTUMin || m > hostops.MTUMax) {
		bad("network.mtu", m, fmt.Sprintf("%d-%d bytes, or nothing for 1500", hostops.MTUMin, hostops.MTUMax))
	}
	if n := c.Capacity.CPUs; n < 0 || n > fsm.CPUsMax {
		bad("capacity.cpus", n, fmt.Sprintf("1-%d, or nothing for what the machine has", fsm.CPUsMax))
	}
	for _, f := range []struct {
		name  string
		value api.Quantity
	}{{"capacity.memory", c.Capacity.Memory}, {"capacity.storage", c.Capacity.Storage}, {"storage.reserve", c.Storage.Reserve}} {
		if f.value < 0 || f.value > fsm.BytesMax {
			bad(f.name, f.value, fmt.Sprintf("at most %s", api.Quantity(fsm.BytesMax)))
		}
	}
}

// checkPaths: a path that depends on where vcnd was started would lose the
// identity, and every guest, at the next start.
func (c *Config) checkPaths(bad func(field string, value any, want string)) {
	for _, f := range []struct{ name, value, example string }{
		{"dataDir", c.DataDir, "/var/lib/vcn"}, {"storage.dir", c.Storage.Dir, "/var/lib/vcn/volumes"},
		{"images.dir", c.Images.Dir, "/var/lib/vcn/images"}, {"images.cache", c.Images.Cache, "/var/lib/vcn/cache"},
		{"images.init", c.Images.Init, "/usr/local/bin/vcn-init"}, {"images.fetchNetns", c.Images.FetchNetns, "/run/netns/uplink"},
		{"libvirt.socket", c.Libvirt.Socket, "/run/libvirt/libvirt-sock"},
	} {
		if f.value != "" && !filepath.IsAbs(f.value) {
			bad(f.name, f.value, "an absolute path, such as "+f.example)
		}
	}
}

// Has tells whether the host offers a class.
func (c *Config) Has(cl api.Class) bool { return slices.Contains(c.Classes, cl) }

// APIAddress is where other hosts and clients reach the API: api.listen, with
// Address where that is every address of the host.
func (c *Config) APIAddress() string {
	at, err1 := netip.ParseAddrPort(c.API.Listen)
	addr, err2 := netip.ParseAddr(c.Address)
	if err1 != nil || err2 != nil || !at.Addr().IsUnspecified() {
		return c.API.Listen
	}
	return netip.AddrPortFrom(addr, at.Port()).String()
}

// TargetSocket is where the target process is driven.
func (c *Config) TargetSocket() string { return filepath.Join(c.DataDir, "target.sock") }

// TargetState is where the target process keeps its export table.
func (c *Config) TargetState() string { return filepath.Join(c.DataDir, "target") }
