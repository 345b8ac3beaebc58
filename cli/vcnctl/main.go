package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"vcn/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv, cli.WithSimulator(simulator))
	stop()
	os.Exit(code)
}
