package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

const (
	configPath  = "/config" // in the initrd
	runDir      = "/run/lab"
	agentPath   = runDir + "/labd"
	agentConfig = runDir + "/config"
)

// Config is what the host tells a machine, as JSON in its initrd.
type Config struct {
	Hostname string
	Token    string
	ID       string // machine-id(5)
	Port     int
	MAC      string   // of the control card
	Address  string   // of the control card, IPv4/length
	Cards    []string // MACs of the other cards: they become eth0, eth1, …
}

func readConfig(path string) (c Config, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read machine's configuration: %w", err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read machine's configuration %s: %w", path, err)
	}
	return c, nil
}

func main() {
	if os.Getpid() == 1 {
		err := boot()
		// Only failure returns: success has become systemd.
		say("%v", err)
		time.Sleep(time.Second)
		powerOff()
	}
	if len(os.Args) != 2 || os.Args[1] != "agent" {
		fmt.Fprintln(os.Stderr, "labd: is the agent of a lab machine and does nothing elsewhere")
		os.Exit(2)
	}
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "labd:", err)
		os.Exit(1)
	}
}
