import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.GetResponse;
import com.rabbitmq.client.RpcClient;
import com.rabbitmq.client.RpcClientParams;
import com.rabbitmq.client.RpcServer;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** What a Java program does with AMQP 0-9-1.  Usage: AmqpClient URL [CA [CERTIFICATE KEY]].  Prints "ok NAME" for each step. */
public final class AmqpClient {
    private static void expect(String what, boolean is) {
        if (!is) {
            System.out.println("failed " + what);
            System.exit(1);
        }
        System.out.println("ok " + what);
    }

    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(arguments[0]);
        factory.setAutomaticRecoveryEnabled(false);
        Tls.use(factory, Arrays.copyOfRange(arguments, 1, arguments.length));
        Connection connection = factory.newConnection();
        Channel channel = connection.createChannel();
        channel.confirmSelect();
        channel.basicQos(10);
        Map<String, Object> work = Map.of("x-dead-letter-exchange", "", "x-dead-letter-routing-key", "java.dead");
        channel.queueDeclare("java.work", true, false, false, work);
        channel.queueDeclare("java.dead", true, false, false, null);
        AMQP.BasicProperties properties = new AMQP.BasicProperties.Builder().deliveryMode(2)
            .headers(Map.of("n", 1L << 40, "when", new Date(1_700_000_000_000L), "list", List.of(1, "b", true))).build();
        for (int n = 0; n < 100; n++) {
            channel.basicPublish("", "java.work", true, properties, Integer.toString(n).getBytes());
        }
        expect("100 persistent publishes are confirmed", channel.waitForConfirms(60_000));
        BlockingQueue<String> bodies = new LinkedBlockingQueue<>();
        channel.basicConsume("java.work", false, "worker", (tag, delivery) -> {
            String body = new String(delivery.getBody());
            bodies.add(delivery.getProperties().getHeaders().get("n").equals(1L << 40) ? body : "headers");
            if (body.equals("7")) {
                channel.basicReject(delivery.getEnvelope().getDeliveryTag(), false);
            } else {
                channel.basicAck(delivery.getEnvelope().getDeliveryTag(), false);
            }
        }, tag -> { });
        for (int n = 0; n < 100; n++) {
            if (!Integer.toString(n).equals(bodies.poll(60, TimeUnit.SECONDS))) {
                expect("order and headers", false);
            }
        }
        expect("order and headers", true);
        channel.basicCancel("worker");
        GetResponse letter = channel.basicGet("java.dead", true);
        Map<?, ?> death = (Map<?, ?>) ((List<?>) letter.getProps().getHeaders().get("x-death")).get(0);
        expect("a dead letter with x-death", death.get("count").equals(1L) && death.get("time") instanceof Date
            && death.get("reason").toString().equals("rejected"));
        byte[] large = new byte[5 << 20];
        Arrays.fill(large, (byte) 'x');
        channel.basicPublish("", "java.dead", properties, large);
        channel.waitForConfirmsOrDie(60_000);
        expect("five MiB come back", Arrays.equals(large, channel.basicGet("java.dead", true).getBody()));
        BlockingQueue<Integer> returns = new LinkedBlockingQueue<>();
        channel.addReturnListener(returned -> returns.add(returned.getReplyCode()));
        channel.basicPublish("", "java.nowhere", true, null, new byte[1]);
        expect("unroutable is returned", Integer.valueOf(312).equals(returns.poll(60, TimeUnit.SECONDS)));
        Channel serving = connection.createChannel();
        RpcServer server = new RpcServer(serving, "java.dead") {
            @Override
            public byte[] handleCall(byte[] asked, AMQP.BasicProperties replyProperties) {
                return ("answer to " + new String(asked)).getBytes();
            }
        };
        Thread thread = new Thread(() -> {
            try {
                server.mainloop();
            } catch (IOException | ShutdownSignalException ended) {
                // The test is over.
            }
        });
        thread.setDaemon(true);
        thread.start();
        Channel asking = connection.createChannel();
        RpcClient rpc = new RpcClient(new RpcClientParams().channel(asking).exchange("").routingKey("java.dead").timeout(60_000));
        expect("direct reply-to", new String(rpc.primitiveCall("ask".getBytes())).equals("answer to ask"));
        Channel transactional = connection.createChannel();
        transactional.txSelect();
        transactional.basicPublish("", "java.work", null, "lost".getBytes());
        transactional.txRollback();
        transactional.basicPublish("", "java.work", null, "kept".getBytes());
        transactional.txCommit();
        expect("a transaction", new String(transactional.basicGet("java.work", true).getBody()).equals("kept"));
        channel.queueDelete("java.work");
        serving.queueDelete("java.dead");
        int code = 0;
        try {
            channel.queueDeclarePassive("java.missing");
        } catch (IOException refused) {
            code = ((AMQP.Channel.Close) ((ShutdownSignalException) refused.getCause()).getReason()).getReplyCode();
        }
        expect("a missing queue is 404", code == 404);
        connection.close();
        System.out.println("done");
        System.exit(0);
    }
}
