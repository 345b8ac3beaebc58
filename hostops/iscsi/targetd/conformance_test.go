package targetd

import (
	"testing"

	"vcn/hostops/hosttest"
)

func TestTargetsConformance(t *testing.T) {
	volume := func(t *testing.T, _ string, size int64) string { return newVolume(t, size) }
	t.Run("in process", func(t *testing.T) {
		hosttest.TestTargets(t, func(t *testing.T) hosttest.TargetsEnv {
			return hosttest.TargetsEnv{Targets: newRig(t).srv, Volume: volume}
		})
	})
	t.Run("over the socket", func(t *testing.T) {
		hosttest.TestTargets(t, func(t *testing.T) hosttest.TargetsEnv {
			return hosttest.TargetsEnv{Targets: newRig(t).client, Volume: volume}
		})
	})
}
