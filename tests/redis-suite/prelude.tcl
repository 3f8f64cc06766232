# Runs the suite. Its files stay as they are: this one takes the place of tests/test_helper.tcl on the command line, and wraps
# procs once they are there.
#
# - With --durable an error between tests is reported, and then the suite stumbles over the server that it has taken off
#   its list already, and ends. Here the rest of the unit is run.
# - With SUITE_RESP3 in the environment each client asks for RESP3.

rename source suite_source
proc source {path} {
    uplevel 1 [list suite_source $path]
    if {[string match */support/server.tcl $path] && [info commands suite_kill_server] eq {}} {
        rename ::kill_server ::suite_kill_server
        proc ::kill_server {config} {
            if {[dict exists $config pid]} {suite_kill_server $config}
        }
        rename ::clean_persistence ::suite_clean_persistence
        proc ::clean_persistence {config} {
            if {[dict exists $config config]} {suite_clean_persistence $config}
        }
    }
    if {[string match */support/redis.tcl $path] && [info exists ::env(SUITE_RESP3)]
            && [info commands suite_redis] eq {}} {
        rename ::redis ::suite_redis
        proc ::redis {args} {
            set client [suite_redis {*}$args]
            lassign $args host port is_deferred is_tls tls_options is_raw
            if {$is_raw ne {1} && ![catch {$client hello 3}] && $is_deferred eq {1}} {
                catch {$client read}
            }
            return $client
        }
    }
}

# Evaluated and not sourced, so that the clients that it starts begin here too.
set suite [open tests/test_helper.tcl]
set text [read $suite]
close $suite
eval $text
