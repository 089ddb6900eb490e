. /tmp/clx/road_env.sh; unset PYTHONPATH
shared=$1
P=47100
rm -rf /tmp/clx/h /tmp/clx/w1 /tmp/clx/w2
$RAY start --head --port=$P --num-cpus=0 --node-ip-address=127.0.0.1 --dashboard-host=127.0.0.1 --dashboard-port=47265 --dashboard-agent-listen-port=0 --ray-client-server-port=47300 --temp-dir=/tmp/clx/h --disable-usage-stats --block > /tmp/clx/h.log 2>&1 &
echo $! > /tmp/clx/h.pid
sleep 15
for n in 1 2; do
 t=""; [ $shared = no ] && t="--temp-dir=/tmp/clx/w$n"
 $RAY start --address=127.0.0.1:$P --num-cpus=1 --node-ip-address=127.0.0.1 --dashboard-agent-listen-port=0 $t --disable-usage-stats --block > /tmp/clx/w$n.log 2>&1 &
 echo $! > /tmp/clx/w$n.pid
 sleep 3
done
