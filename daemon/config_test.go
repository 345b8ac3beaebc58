package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"vcn/api"
)

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vcnd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigurationIsRefusedWithFieldValueAndWhatWouldBeRight(t *testing.T) {
	const good = "name: h1\naddress: 10.0.0.1\n"
	for _, tc := range []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{"the text is empty"}},
		{"only a comment", "# later\n", []string{"the text is empty"}},
		{"no YAML", "address: [10.0.0.1\n", []string{"cannot read the text as YAML or JSON: line 1"}},
		{"two documents", good + "---\nname: h2\n", []string{"more than one YAML document"}},
		{"a key twice", good + "name: h2\n", []string{`key "name" already set`}},
		{"too large", good + "#" + strings.Repeat("x", configBytesMax), []string{"larger than 64KiB"}},

		{"unknown field", good + "adress: 10.0.0.1\n", []string{`adress: want a known field; did you mean "address"?`}},
		{"unknown field within", good + "network: {publicbridge: br-pub}\n", []string{`network.publicbridge: want a known field; did you mean "publicBridge"?`}},
		{"field of another place", good + "voters: 5\n", []string{"voters: want a known field; "}},
		{"a list that is text", good + "classes: compute\n", []string{`classes: "compute": want a list: [compute]`}},
		{"a block that is text", good + "api: 10.0.0.1:7443\n", []string{`api: "10.0.0.1:7443": want fields: listen, names`}},
		{"a decimal unit", good + "capacity: {memory: 8GB}\n", []string{`capacity.memory: "8GB": want 8GiB (units are KiB, MiB, GiB, TiB)`}},
		{"no unit", good + "storage: {reserve: 10}\n", []string{`storage.reserve: "10": want a unit: 10MiB or 10GiB`}},
		{"part of a core", good + "capacity: {cpus: 1.5}\n", []string{`capacity.cpus: "1.5": want a whole number`}},
		{"yes for true", good + "raft: {neverPeer: 7}\n", []string{`raft.neverPeer: "7": want true or false`}},
		{"several at once", good + "capacity: {memory: 8GB, storag: 1GiB}\n", []string{"capacity.memory: ", `capacity.storag: want a known field; did you mean "storage"?`}},

		{"no address", "name: h1\n", []string{`address: "": want this host's address`}},
		{"no one address", "name: h1\naddress: 0.0.0.0\n", []string{`address: "0.0.0.0": want this host's address`}},
		{"a name in capitals", "name: H1\naddress: 10.0.0.1\n", []string{`name: "H1": want 1-40 of a-z`}},
		{"unknown class", good + "classes: [gatway]\n", []string{`classes[0]: "gatway": want gateway, compute or storage`}},
		{"a gateway without the public bridge", good + "classes: [gateway]\n", []string{"network.publicBridge: "}},
		{"listening without a port", good + "api: {listen: 0.0.0.0}\n", []string{`api.listen: "0.0.0.0": want address:port`}},
		{"gossip everywhere", good + "gossip: {listen: \"0.0.0.0:7445\"}\n", []string{`gossip.listen: "0.0.0.0:7445": want one address`}},
		{"packets too large", good + "network: {mtu: 99999999}\n", []string{`network.mtu: "99999999": want 1280-9216 bytes`}},
		{"packets too small", good + "network: {mtu: 1279}\n", []string{`network.mtu: "1279": want 1280-9216 bytes`}},
		{"negative packets", good + "network: {mtu: -1}\n", []string{`network.mtu: "-1": want 1280-9216 bytes`}},
		{"negative cores", good + "capacity: {cpus: -3}\n", []string{`capacity.cpus: "-3": want 1-1048576`}},
		{"too many cores", good + "capacity: {cpus: 1048577}\n", []string{`capacity.cpus: "1048577": want 1-1048576`}},
		{"too much memory", good + "capacity: {memory: 1025TiB}\n", []string{`capacity.memory: "1025TiB": want at most 1024TiB`}},
		{"too much storage", good + "capacity: {storage: 1025TiB}\n", []string{`capacity.storage: "1025TiB": want at most 1024TiB`}},
		{"too much in reserve", good + "storage: {reserve: 1025TiB}\n", []string{`storage.reserve: "1025TiB": want at most 1024TiB`}},
		{"relative data", good + "dataDir: data\n", []string{`dataDir: "data": want an absolute path`}},
		{"relative volumes", good + "storage: {dir: ./volumes}\n", []string{`storage.dir: "./volumes": want an absolute path`}},
		{"relative images", good + "images: {dir: a, cache: b, init: c, fetchNetns: d}\n", []string{
			`images.dir: "a": want an absolute path`, `images.cache: "b": want`, `images.init: "c": want`, `images.fetchNetns: "d": want`}},
		{"relative socket", good + "libvirt: {socket: libvirt-sock}\n", []string{`libvirt.socket: "libvirt-sock": want an absolute path`}},
		{"unknown volumes", good + "storage: {driver: zfs}\n", []string{`storage.driver: "zfs": want auto, file or lvm`}},
		{"unknown engine", good + "storage: {engine: tgt}\n", []string{`storage.engine: "tgt": want auto, embedded or lio`}},
		{"unknown initiator", good + "initiator: vmware\n", []string{`initiator: "vmware": want qemu or kernel`}},
		{"LVM without a volume group", good + "storage: {driver: lvm}\n", []string{`storage.volumeGroup: "": want the LVM volume group`}},
		{"files with a volume group", good + "storage: {driver: file, volumeGroup: vg0}\n", []string{`storage.volumeGroup: "vg0": want nothing, because`}},
		{"a pool without a volume group", good + "storage: {thinPool: p}\n", []string{`storage.thinPool: "p": want storage.volumeGroup`}},
		{"a path for a volume group", good + "storage: {volumeGroup: /dev/vg0}\n", []string{`storage.volumeGroup: "/dev/vg0": want the name`}},
		{"write-through by LIO", good + "storage: {engine: lio, writeThrough: true}\n", []string{`storage.writeThrough: "true": want storage.engine embedded`}},
		{"four voters", good + "raft: {voters: 4}\n", []string{`raft.voters: "4": want 3 or 5`}},
		{"a length without a unit", good + "raft: {deadAfter: \"30\"}\n", []string{`raft.deadAfter: "30": want a duration`}},
		{"all at once", "name: H1\naddress: 10.0.0.1\nlogLevel: loud\nlibvirt: {accel: xen}\nnetwork: {driver: gre}\n", []string{
			`name: "H1"`, `logLevel: "loud": want debug`, `libvirt.accel: "xen": want auto`, `network.driver: "gre": want auto`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := writeConfig(t, tc.text)
			_, err := LoadConfig(path)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(tc.want, path) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v\nwant in it: %s", err, want)
				}
			}
		})
	}
}

func TestConfigurationThatIsNotThereIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := LoadConfig(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	if _, err := LoadConfig(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), filepath.Dir(path)+": is a directory") {
		t.Errorf("a directory: %v", err)
	}
}

func TestConfigurationHasDefaultsForAllButTheAddress(t *testing.T) {
	c, err := LoadConfig(writeConfig(t, "name: h1\naddress: 10.0.0.1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/var/lib/vcn" || c.Storage.Dir != "/var/lib/vcn/volumes" || c.Images.Dir != "/var/lib/vcn/images" ||
		c.API.Listen != "10.0.0.1:7443" || c.Internal.Listen != "10.0.0.1:7444" || c.Gossip.Listen != "10.0.0.1:7445" ||
		c.Storage.Portal != "10.0.0.1:3260" || c.Storage.Reserve != api.GiB || c.VolumeDriver() != "file" || c.Storage.Engine != "auto" || c.Initiator != "qemu" || c.Raft.Voters != 3 || !c.Has(api.ClassCompute) || c.Has(api.ClassStorage) {
		t.Errorf("defaults %+v", c)
	}
	if d, err := time.ParseDuration(c.Raft.DeadAfter); err != nil || d != 30*time.Second {
		t.Errorf("raft.deadAfter %s", c.Raft.DeadAfter)
	}
}

func TestAutoTakesTheKernelsTargetOnlyForTheKernelsInitiator(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"", "embedded"},
		{"initiator: kernel\n", "auto"},
		{"initiator: kernel\nstorage: {writeThrough: true}\n", "embedded"},
		{"storage: {engine: lio}\n", "lio"},
	} {
		c, err := LoadConfig(writeConfig(t, "name: h1\naddress: 10.0.0.1\n"+tc.text))
		if err != nil {
			t.Fatal(err)
		}
		if got := c.targetEngine(); got != tc.want {
			t.Errorf("%q asks for %s, want %s", tc.text, got, tc.want)
		}
	}
}

func TestConfigurationThatGivesEverythingIsTaken(t *testing.T) {
	want := Config{
		Name: "h1", DataDir: "/srv/vcn", Address: "10.0.0.1", Classes: []api.Class{api.ClassGateway, api.ClassStorage}, FailureDomain: "rack1",
		API:      ListenConfig{Listen: "0.0.0.0:7443", Names: []string{"vcn.example"}},
		Internal: ListenConfig{Listen: "10.0.0.1:1"}, Gossip: ListenConfig{Listen: "10.0.0.1:2"},
		Storage: StorageConfig{
			Driver: "lvm", Dir: "/srv/volumes", VolumeGroup: "vg0", ThinPool: "pool", Engine: "embedded", WriteThrough: true,
			Portal: "10.0.0.1:3", Reserve: 5 * api.GiB,
		},
		Initiator:   "kernel",
		Network:     NetworkConfig{Driver: "vxlan", Underlay: "eth0", PublicBridge: "br-pub", MTU: 9216},
		Images:      ImagesConfig{Dir: "/srv/images", Cache: "/srv/cache", Init: "/opt/vcn-init", FetchNetns: "/run/netns/x"},
		Libvirt:     LibvirtConfig{Socket: "/run/l", Accel: "tcg"},
		Capacity:    CapacityConfig{CPUs: 3, Memory: 8 * api.GiB, Storage: 100 * api.GiB},
		Raft:        RaftConfig{Voters: 5, NeverPeer: true, DeadAfter: "1m"},
		WorkerDelay: "0s", LogLevel: "debug",
	}
	text, err := yaml.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := LoadConfig(writeConfig(t, string(text)))
	if err != nil {
		t.Fatal(err)
	}
	again, err := yaml.Marshal(got)
	if err != nil || string(again) != string(text) {
		t.Errorf("read %s, %v\nwant %s", again, err, text)
	}
}
